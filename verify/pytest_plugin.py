"""pytest plugin: the fixture ``equivariance`` and the options ``--equivariance-*``.

Nothing runs unless a test asks for the fixture. With ``--equivariance-report`` every test that used it leaves a JSON
report in that folder; under pytest-xdist every worker writes its own files, so that none is lost.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_DTYPES = ("float64", "float32")
_REPORTS = pytest.StashKey[list[tuple[str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the plugin."""
    group = parser.getgroup("equivariance", "equivariance verification")
    group.addoption("--equivariance-trials", type=int, default=64, help="Haar trials per call (default 64)")
    group.addoption("--equivariance-seed", type=int, default=0, help="seed of inputs and rotations (default 0)")
    group.addoption(
        "--equivariance-dtype", choices=_DTYPES, default="float64", help="precision (default float64, the gate)"
    )
    group.addoption(
        "--equivariance-report", type=Path, default=None, metavar="DIR", help="folder for one JSON report per call"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Check the options before any test runs, and make the folder of the reports."""
    config.stash[_REPORTS] = []
    if config.getoption("--equivariance-trials") < 1:
        raise pytest.UsageError("--equivariance-trials: expected a positive number")
    folder = config.getoption("--equivariance-report")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """One line per verification of this process."""
    rows = config.stash.get(_REPORTS, [])
    if rows:
        terminalreporter.section("equivariance")
        for test, line in rows:
            terminalreporter.write_line(f"{test}: {line}")


class Equivariance:
    """Verifies functions with the settings of the command line.

    Args:
        trials: Haar trials.
        seed: seed of inputs and rotations.
        dtype: ``"float64"`` or ``"float32"``.
        leave: called with every report.
    """

    def __init__(self, trials: int, seed: int, dtype: str, leave: Callable[[Any], None]) -> None:
        self.trials, self.seed, self.dtype, self._leave = trials, seed, dtype, leave

    def measure(self, func: Any, irreps_in: Any, irreps_out: Any, **options: Any) -> Any:
        """Report of `verify_equivariance`, without a judgement.

        Args:
            func: function or module.
            irreps_in: one entry per input.
            irreps_out: one entry per output.
            **options: further arguments of `verify_equivariance`; they win over the command line.
        """
        import torch

        from .api import verify_equivariance

        settings = {"trials": self.trials, "seed": self.seed, "dtype": getattr(torch, self.dtype), **options}
        report = verify_equivariance(func, irreps_in, irreps_out, **settings)
        self._leave(report)
        return report

    def __call__(self, func: Any, irreps_in: Any = None, irreps_out: Any = None, **options: Any) -> Any:
        """Report, after failing the test unless it passed.

        Args:
            func: function or module.
            irreps_in: one entry per input; None takes ``func.irreps_in``, or ``func.irreps_in1`` and so on.
            irreps_out: one entry per output; None takes ``func.irreps_out``.
            **options: further arguments of `verify_equivariance`.
        """
        __tracebackhide__ = True
        from .api import declared

        entries = declared(func, irreps_in, "irreps_in"), declared(func, irreps_out, "irreps_out")
        report = self.measure(func, *entries, **options)
        if not report.passed:
            pytest.fail(f"not equivariant\n{report.to_text()}", pytrace=False)
        return report


@pytest.fixture
def equivariance(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Equivariance:
    """Callable that fails the test unless a function is equivariant: ``equivariance(func, irreps_in, irreps_out)``."""
    config = request.config
    count = 0

    def leave(report: Any) -> None:
        nonlocal count
        count += 1
        name = f"equivariance_{count}"
        record_property(f"{name}_verdict", report.verdict.value)
        for check in report.checks:
            record_property(f"{name}_{check.name}_margin", f"{check.margin:.6g}")
        config.stash[_REPORTS].append((request.node.nodeid, f"{report.verdict} {report.noise_floor.line()}"))
        folder = config.getoption("--equivariance-report")
        if folder is not None:
            from tracegrad.atomic import atomic_write

            with atomic_write(folder / f"{_file_name(request.node.nodeid)}_{count}.json") as temporary:
                temporary.write_text(report.to_json(), encoding="utf-8")

    return Equivariance(
        config.getoption("--equivariance-trials"),
        config.getoption("--equivariance-seed"),
        config.getoption("--equivariance-dtype"),
        leave,
    )


def _file_name(nodeid: str) -> str:
    """Node id as the name of a file, with a digest, since others may be shortened or cleaned to the same text."""
    cleaned = re.sub(r"[^A-Za-z0-9.-]+", "_", nodeid).strip("_")
    return f"{cleaned[:150]}_{hashlib.sha256(nodeid.encode()).hexdigest()[:8]}"
