"""The example of another task: short, on data of a real engine; the operator helps and the verifier agrees."""

from __future__ import annotations

import contextlib
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Example = Callable[..., dict[str, Any]]
WITH, WITHOUT = "readout(f + induction(f)[1])", "readout(f)"
TURNABLE, FIXED = "def dipole(x, z):\n", "def dipole(x, z):\n    x = x * torch.tensor([1.0, 1.0, 1.1]).to(x)\n"


def code_lines(path: Path) -> int:
    """Return the lines that hold code: no comment, no text alone, nothing empty."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            alone = token.type == tokenize.STRING and token.line.strip().startswith('"""')
            if token.type not in silent | {tokenize.ENCODING} and not alone:
                lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


@pytest.fixture(scope="module")
def run(root: Path) -> Example:
    """Return a function that runs the example, 100 steps, with a change; in the checkout the verifier is ``verify``."""
    source = (root / "examples" / "dipoles.py").read_text(encoding="utf-8")

    def execute(old: str = "", new: str = "") -> dict[str, Any]:
        text = source
        for before, after in (("from tracegrad.verify", "from verify"), ("range(300)", "range(100)"), (old, new)):
            assert text.count(before) == 1 or not before
            text = text.replace(before, after) if before else text
        names: dict[str, Any] = {}
        torch.set_num_threads(1)
        with contextlib.chdir(root):
            exec(compile(text, "examples/dipoles.py", "exec"), names)
        return names

    return execute


def error(names: dict[str, Any]) -> float:
    """Return the test error in Debye."""
    x, z, dipoles = names["x"][120:], names["z"][120:], names["dipoles"][120:]
    return float((names["dipole"](x, z) - dipoles).detach().abs().mean())


def test_the_network_learns_more_with_the_operator_and_passes_the_verifier(run: Example) -> None:
    names = run()
    assert names["report"].passed, names["report"].to_text()
    assert names["report"].check("node_permutation").passed  # the numbers go with the points
    assert error(names) < 0.6 * error(run(WITH, WITHOUT))  # 26 against 82 mD after all 300 steps


def test_a_network_that_sees_the_axes_is_refused(run: Example) -> None:
    assert not run(TURNABLE, FIXED)["report"].passed


def test_the_example_has_twenty_lines_and_is_the_one_on_the_page(root: Path) -> None:
    assert code_lines(root / "examples" / "dipoles.py") <= 20
    assert code_lines(root / "examples" / "make_dipoles.py") > 20
    page = (root / "docs" / "using_the_layer.md").read_text(encoding="utf-8")
    assert '--8<-- "examples/dipoles.py"' in page
    assert "import torch" not in page  # no second copy


def test_the_data_are_those_of_the_engine(root: Path) -> None:
    gto = pytest.importorskip("pyscf.gto", reason="needs PySCF (pip install tracegrad[dft])")
    from pyscf import scf

    content = torch.load(root / "examples" / "dipoles.pt", weights_only=True)
    numbers, positions, dipoles = (content[name].numpy() for name in ("numbers", "positions", "dipoles"))
    assert numbers.shape == (160, 4)
    atoms = [(int(z), x) for z, x in zip(numbers[4], positions[4], strict=True) if z]
    field = scf.RHF(gto.M(atom=atoms, basis="6-31g*", verbose=0)).run(conv_tol=1e-9)
    assert abs(field.dip_moment(verbose=0) - dipoles[4]).max() < 1e-4
    assert abs(dipoles[4] - dipoles[0]).max() > 0.1
