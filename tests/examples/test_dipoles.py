"""The example of another task: its data are what the engine computes, the operator helps, the verifier agrees."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from verify import verify_equivariance


@pytest.fixture(scope="module")
def example(root: Path) -> ModuleType:
    """Return examples/dipoles.py as a module; in the checkout the verifier is ``verify``."""
    path = root / "examples" / "dipoles.py"
    module = ModuleType("dipoles_example")
    module.__file__ = str(path)
    source = path.read_text(encoding="utf-8").replace("from tracegrad.verify", "from verify")
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module


def test_the_network_learns_more_with_the_operator_and_passes_the_verifier(example: ModuleType) -> None:
    torch.set_num_threads(1)
    (without, with_operator), report = example.main(steps=60)
    assert with_operator < without  # 46 against 119 mD after all 300 steps
    assert report.passed, report.to_text()


def test_a_network_that_sees_the_axes_is_refused(example: ModuleType) -> None:
    network = example.DipoleNetwork(induce=True).double()
    numbers = torch.tensor([[7, 1, 1, 1]])

    def broken(x: torch.Tensor) -> torch.Tensor:
        return network(x[None] * torch.tensor([1.0, 1.0, 1.1]).to(x), numbers)

    report = verify_equivariance(broken, ["cartesian_points"], ["1x1o"], checks=["rotation"], trials=4, diagnose=False)
    assert not report.passed


def test_the_data_are_those_of_the_engine(root: Path) -> None:
    gto = pytest.importorskip("pyscf.gto", reason="needs PySCF (pip install tracegrad[dft])")
    from pyscf import scf

    with np.load(root / "examples" / "dipoles.npz") as file:
        numbers, positions, dipoles = file["numbers"], file["positions"], file["dipoles"]
    assert numbers.shape == (160, 4)
    atoms = [(int(z), x) for z, x in zip(numbers[4], positions[4], strict=True) if z]
    field = scf.RHF(gto.M(atom=atoms, basis="6-31g*", verbose=0)).run(conv_tol=1e-9)
    assert np.abs(field.dip_moment(verbose=0) - dipoles[4]).max() < 1e-4
    assert np.abs(dipoles[4] - dipoles[0]).max() > 0.1
