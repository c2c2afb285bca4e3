"""The baseline is the public DeepH-E3 network: weights, outputs, checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tracegrad.cli import main
from tracegrad.model.parity import blocks_in_openmx_order, compare_case, graph_of_case, passed
from tracegrad.training.checkpoint import load_checkpoint

CASES = ("spinless_mos2", "spinful_bismuth")


@pytest.fixture
def case(root: Path) -> Callable[[str], Path]:
    """Return the file of a case."""
    return lambda name: root / "tests" / "reference" / "deephe3" / f"{name}.npz"


def arrays_of(path: Path) -> dict[str, Any]:
    """Return all arrays of a file."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("name", CASES)
def test_public_code_is_reproduced(name: str, case: Callable[[str], Path]) -> None:
    result = compare_case(case(name))
    assert result["case"] == name
    assert result["max_rel"].keys() == {"node", "edge_irreps", "H"}
    assert max(result["max_rel"].values()) < 1e-13
    assert passed(result)
    assert not passed({"max_rel": {"node": float("nan")}})


def test_command_prints_one_object(case: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", str(case(CASES[0]))]) == 0
    assert json.loads(capsys.readouterr().out)["max_rel"]["H"] < 1e-13


@pytest.mark.parametrize(
    "name", ["state/edge_update_blocks.1.conv.tp.weights2.7", "in/positions", "state/node_update_blocks.0.norm.bias"]
)
def test_a_changed_number_is_seen(name: str, case: Callable[[str], Path], tmp_path: Path) -> None:
    arrays = arrays_of(case(CASES[0]))
    arrays[name] = arrays[name].copy()
    arrays[name].flat[0] += 1e-6
    np.savez(tmp_path / "case.npz", **arrays)
    assert main(["parity", str(tmp_path / "case.npz"), "--quiet"]) == 1


def _without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda arrays: arrays.pop(name)


BAD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no meta": _without("meta"),
    "no output": _without("out/node"),
    "no weight": _without("state/lin_edge.bias"),
    "meta not JSON": lambda arrays: arrays.update(meta=np.array("{")),
    "weight of another shape": lambda arrays: arrays.update({"state/lin_edge.bias": np.zeros(3)}),
    "one direction only": lambda arrays: arrays.update(
        {"in/edge_index": arrays["in/edge_index"][:, :9], "in/cell_shift": arrays["in/cell_shift"][:9]}
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_case_is_refused(
    fault: str, case: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = arrays_of(case(CASES[0]))
    BAD[fault](arrays)
    np.savez(tmp_path / "case.npz", **arrays)
    assert main(["parity", str(tmp_path / "case.npz")]) == 2
    assert "expected" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"not an archive", None])
def test_another_file_is_refused(content: bytes | None, tmp_path: Path, case: Callable[[str], Path]) -> None:
    path = tmp_path / "case.npz"
    path.write_bytes(case(CASES[0]).read_bytes()[:100_000] if content is None else content)
    assert main(["parity", str(path)]) == 2
    assert main(["parity", str(tmp_path / "missing.npz")]) == 2


def test_blocks_are_in_openmx_order(layout: Callable[..., Any]) -> None:
    targets = layout("MG")
    irreps = torch.randn(2, targets.irreps.dim, dtype=torch.float64)
    flat = blocks_in_openmx_order(irreps, targets)
    assert flat.square().sum() == pytest.approx(float(irreps.square().sum()))
    assert not torch.allclose(flat, irreps)


@pytest.fixture
def run_folder(case: Callable[[str], Path], tmp_path: Path) -> Path:
    """Return the folder of a DeepH-E3 run with the weights of the spinless case."""
    arrays = arrays_of(case(CASES[0]))
    meta = json.loads(str(arrays["meta"]))
    state = {k.removeprefix("state/"): torch.from_numpy(v) for k, v in arrays.items() if k.startswith("state/")}
    state["edge_update_blocks.0.conv.tp.tp._compiled_main_left_right._w3j"] = torch.zeros(3)
    (tmp_path / "src").mkdir()
    torch.save({"epoch": 7, "val_loss": 1e-6, "state_dict": state, "optimizer": {}}, tmp_path / "best_model.pkl")
    irreps = {f"irreps_{place}_{kind}": meta[f"irreps_{place}"] for place in ("mid",) for kind in ("node", "edge")}
    irreps |= {"irreps_embed_node": meta["irreps_embed"], "irreps_edge_init": meta["irreps_embed"]}
    irreps |= {name: meta[name] for name in ("irreps_sh", "irreps_post_node", "irreps_post_edge", "irreps_out_edge")}
    numbers = {"num_block": meta["num_blocks"], "r_max": meta["gaussian_stop"], "use_sbf": False, "only_ij": False}
    call = ",\n    ".join(f"{name}={value!r}" for name, value in (irreps | numbers).items())
    (tmp_path / "src" / "build_model.py").write_text(f"from deephe3_1 import Net\nnet = Net(\n    {call}\n)\n")
    shells = [meta["orbitals"][str(Z)] for Z in meta["elements"]]
    info = {"spinful": False, "index_to_Z": meta["elements"], "orbital_types": shells}
    (tmp_path / "src" / "dataset_info.json").write_text(json.dumps(info))
    return tmp_path


def test_imported_checkpoint_is_the_same_function(
    run_folder: Path, case: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = run_folder / "imported.ckpt"
    assert main(["import-deephe3", str(run_folder / "best_model.pkl"), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["epoch"] == 7
    model, config, rest = load_checkpoint(out)
    assert config.model.setting == "DeepHE3"
    assert rest["data"].orbitals == {16: (0, 0, 1, 1, 2), 42: (0, 0, 0, 1, 1, 2, 2)}
    model.load_state_dict(torch.load(out, weights_only=True)["state_dict"])
    arrays = arrays_of(case(CASES[0]))
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
