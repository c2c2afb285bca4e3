"""The example of a graph network: it passes as it stands, and fails without what it rebuilds or with other forces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tracegrad.errors import VerificationError
from verify import Report

Example = Callable[..., Report]


@pytest.fixture
def run(root: Path) -> Example:
    """Return a function that runs the example with a change; in the checkout the verifier is ``verify``."""
    source = (root / "examples" / "verify_graph.py").read_text(encoding="utf-8")

    def execute(old: str = "", new: str = "") -> Report:
        text = source
        for before, after in (("from tracegrad.verify", "from verify"), (old, new)):
            assert text.count(before) == 1 or not before
            text = text.replace(before, after) if before else text
        names: dict[str, Any] = {}
        exec(compile(text, "examples/verify_graph.py", "exec"), names)
        report = names["report"]
        assert isinstance(report, Report)
        return report

    return execute


def test_the_network_passes_with_energy_and_forces(run: Example) -> None:
    report = run()
    assert report.passed, report.to_text()
    assert {"rotation", "batch_independence", "force_consistency", "gradient"} <= {c.name for c in report.checks}


def test_forces_of_another_size_are_refused(run: Example) -> None:
    report = run("return energy, -torch", "return energy, -0.9 * torch")
    assert [c.name for c in report.failures] == ["force_consistency"]


def test_edge_vectors_that_nothing_rebuilds_are_refused(run: Example) -> None:
    with pytest.raises(VerificationError, match="edge_vec"):
        run("    rebuild=rebuild,\n", "")


def test_a_network_that_sees_the_axes_is_refused(run: Example) -> None:
    report = run("graph.edge_vec.square().sum", "graph.edge_vec[:, :2].square().sum")
    assert not report.check("rotation").passed


def test_the_page_shows_the_example(root: Path) -> None:
    page = (root / "docs" / "using_the_layer.md").read_text(encoding="utf-8")
    assert '--8<-- "examples/verify_graph.py"' in page
