"""A checkpoint of the public DeepH-E3 code: read without running code, the same function, tuned and extended here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tracegrad.cli import main
from tracegrad.data import Structure
from tracegrad.data.compact import write_compact
from tracegrad.graph import build_graph
from tracegrad.model import predict_blocks
from tracegrad.model.parity import blocks_in_openmx_order, graph_of_case
from tracegrad.training.checkpoint import load_checkpoint

Arrays = Callable[[str], dict[str, Any]]
CASE = "spinless_mos2"


def test_imported_checkpoint_is_the_same_function(
    run_folder: Path, arrays_of: Arrays, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run_folder / "imported.ckpt"
    assert main(["import-deephe3", str(run_folder / "best_model.pkl"), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["epoch"] == 7
    model, config, rest = load_checkpoint(out)
    assert config.model.setting == "DeepHE3"
    assert rest["data"].orbitals == {16: (0, 0, 1, 1, 2), 42: (0, 0, 0, 1, 1, 2, 2)}
    arrays = arrays_of(CASE)
    graph, order = graph_of_case(arrays, model.targets, "case")
    with torch.no_grad():
        H = blocks_in_openmx_order(model(graph)["edge_irreps"], model.targets)[order]
    reference = torch.from_numpy(arrays["out/H_openmx"])
    assert (H - reference).abs().max() < 1e-12 * reference.abs().max()


def _edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "src" / name
        path.write_text(path.read_text().replace(old, new))

    return edit


FAULTS: dict[str, Callable[[Path], Any]] = {
    "no description": lambda folder: (folder / "src" / "build_model.py").unlink(),
    "a description that computes": _edit(
        "build_model.py", "use_sbf=False", "use_sbf=bool(__import__('os').system('x'))"
    ),
    "spherical basis": _edit("build_model.py", "use_sbf=False", "use_sbf=True"),
    "tensor products of nodes with themselves": _edit("build_model.py", "use_sbf=False", "use_sbf=False, selftp=True"),
    "other blocks": _edit("dataset_info.json", "[0, 0, 1, 1, 2]", "[0, 1, 1, 2]"),
    "damaged record": _edit("dataset_info.json", '"spinful"', '"spin"'),
    "another width": _edit("build_model.py", "16x0e+8x1o", "12x0e+8x1o"),
    "truncated weights": lambda folder: (folder / "best_model.pkl").write_bytes(
        (folder / "best_model.pkl").read_bytes()[:5000]
    ),
    "no weights": lambda folder: torch.save({"epoch": 1}, folder / "best_model.pkl"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_checkpoint_is_refused(fault: str, run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FAULTS[fault](run_folder)
    out = run_folder / "imported.ckpt"
    assert main(["import-deephe3", str(run_folder / "best_model.pkl"), "--out", str(out)]) == 2
    assert "tracegrad: error:" in capsys.readouterr().err
    assert not out.exists()


def test_parity_with_the_public_code_is_checked_on_request(
    run_folder: Path, arrays_of: Arrays, case: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = run_folder / "imported.ckpt"
    command = ["import-deephe3", str(run_folder / "best_model.pkl"), "--out", str(out), "--parity"]
    assert main([*command, str(case(CASE)), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["parity"]
    assert found.keys() == {"node", "edge_irreps", "H"}
    assert max(found.values()) < 1e-12
    out.unlink()
    arrays = arrays_of(CASE)
    arrays["out/H_openmx"].flat[7] += 1e-6
    np.savez(run_folder / "other.npz", **arrays)
    assert main([*command, str(run_folder / "other.npz")]) == 1
    assert "not the same function" in capsys.readouterr().err
    assert not out.exists()


class Source:
    """Data for an imported network: what it predicts itself, a fifth stronger."""

    def __init__(self, folder: Path, checkpoint: Path, arrays: dict[str, Any]) -> None:
        self.model, _, rest = load_checkpoint(checkpoint)
        random = np.random.default_rng(0)
        numbers, cell, pbc = arrays["in/numbers"], arrays["in/cell"], np.array([True, True, False])
        structures = []
        for subset in ("train", "train", "val", "test"):
            positions = arrays["in/positions"] + random.normal(scale=0.03, size=(len(numbers), 3))
            name = f"{subset}_{len(structures)}"
            bare = Structure(numbers, positions, cell, pbc, rest["data"].orbitals, False, None, name=name)
            blocks = predict_blocks(self.model, build_graph(bare, self.model.targets, r_max=4.0)).hermitian_part()
            stronger = blocks.with_values(1.2 * blocks.values)
            structures.append((subset, replace(bare, hamiltonian=stronger).validate()))
        self.structure = structures[-1][1]
        self.path = folder / "MM.h5"
        write_compact(self.path, structures)

    def prediction(self, checkpoint: Path) -> dict[tuple[int, ...], np.ndarray]:
        """Return what a checkpoint predicts for the test structure, both directions of every pair on their own."""
        model = load_checkpoint(checkpoint)[0]
        with torch.no_grad():
            return predict_blocks(model, build_graph(self.structure, model.targets)).to_dict()

    def change(self, first: Path, second: Path) -> float:
        """Return the largest difference of two predictions."""
        ours, theirs = self.prediction(first), self.prediction(second)
        return max(float(np.abs(ours[key] - theirs[key]).max()) for key in ours)

    def error(self, checkpoint: Path) -> float:
        """Return the root mean square error on the test structure in eV."""
        assert self.structure.hamiltonian is not None
        wanted, found = self.structure.hamiltonian.completed().to_dict(), self.prediction(checkpoint)
        assert wanted.keys() == found.keys()
        return float(np.sqrt(np.mean(np.concatenate([np.square(found[k] - wanted[k]).reshape(-1) for k in wanted]))))


def test_an_imported_network_is_tuned_and_grows_a_silent_operator(run_folder: Path, arrays_of: Arrays) -> None:
    first, config = run_folder / "imported.ckpt", run_folder / "tune.yaml"
    words = ["--out", str(first), "--train-config", str(config), "--quiet"]
    assert main(["import-deephe3", str(run_folder / "best_model.pkl"), *words]) == 0
    source = Source(run_folder, first, arrays_of(CASE))
    command = ["train", "--config", str(config), "--dataset", "MM", "--source", str(source.path), "--quiet"]
    for change in ("loggers=[]", "schedule=constant", "select=last", "ema_decay=0", "device=cpu", "operator_width=8"):
        command += ["--set", change]

    def trained(name: str, *changes: str) -> Path:
        words = [word for change in changes for word in ("--set", change)]
        assert main([*command, *words, "--out", str(run_folder / name)]) == 0
        return run_folder / name / "final.ckpt"

    tuned = trained("tuned", "epochs=8", "learning_rate=1e-3")
    assert source.error(tuned) < 0.7 * source.error(first)
    operator = ("setting=DeepHE3+Grad", "operator_gain_learned=true", "epochs=1")
    silent = trained("silent", *operator, "operator_gain=0", "learning_rate=0")
    assert source.change(silent, first) < 1e-12
    loud = trained("loud", *operator, "operator_gain=1", "learning_rate=0")
    assert source.change(loud, first) > 1e-3
    grown = trained("grown", *operator, "operator_gain=0", "learning_rate=0.001", "epochs=8")
    gains = [p for name, p in load_checkpoint(grown)[0].named_parameters() if "gain" in name]
    assert gains
    assert all(bool(gain.detach().abs().max() > 0) for gain in gains)
    assert source.error(grown) < 0.7 * source.error(first)
