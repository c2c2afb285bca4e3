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
from tracegrad.model.parity import blocks_in_openmx_order, compare_case, passed

Arrays = Callable[[str], dict[str, Any]]
CASES = ("spinless_mos2", "spinful_bismuth")


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
def test_a_changed_number_is_seen(name: str, arrays_of: Arrays, tmp_path: Path) -> None:
    arrays = arrays_of(CASES[0])
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
    fault: str, arrays_of: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = arrays_of(CASES[0])
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
