"""The same faults and controls through `e3nn.util.test.assert_equivariant`, at its defaults."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from e3nn import o3
from e3nn.util.test import assert_equivariant

from ..reporting.markdown import number, table
from ..subject import quiet
from .catalogue import CATALOGUE, entry
from .kinds import Mutant
from .matrix import run_entry
from .outcome import KillMatrix, Outcome

REPEATS = 5
POINTS = 7
HEADER = ("#", "fault or control", "checks that do not pass", "verdict", "largest error", "e3nn rejects", "precedent")


def e3nn_failures(mutant: Mutant, repeats: int = REPEATS) -> int | None:
    """Number of seeded runs in which e3nn's tool rejects an entry.

    Args:
        mutant: the entry.
        repeats: seeded runs, one per weight seed.

    Returns:
        The number, or None where the tool has no form for the entry (trace labels, operators, conventions).
    """
    if mutant.build is None:
        return None
    failures = 0
    for seed in range(repeats):
        subject = mutant.build(seed)
        with quiet(torch.float64), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            widths = [3 if entry == "cartesian_points" else o3.Irreps(entry).dim for entry in subject.irreps_in]
            arguments = [torch.randn(POINTS, width) for width in widths]
            try:
                with torch.no_grad():
                    assert_equivariant(subject.func, arguments, list(subject.irreps_in), list(subject.irreps_out))
            except AssertionError:
                failures += 1
    return failures


@dataclass(frozen=True)
class Comparison:
    """Both tools on the same entries.

    Args:
        matrix: what this verifier said.
        theirs: seeded runs in which e3nn's tool rejected the entry, None where it has no form for it.
        repeats: seeded runs of e3nn's tool.
    """

    matrix: KillMatrix
    theirs: tuple[int | None, ...]
    repeats: int

    def to_markdown(self) -> str:
        """Table and tally."""
        pairs = list(zip(self.matrix.outcomes, self.theirs, strict=True))
        rows = [_row(outcome, _fraction(count, self.repeats)) for outcome, count in pairs]
        faults = [count for outcome, count in pairs if not outcome.control]
        controls = [count for outcome, count in pairs if outcome.control]
        tally = (
            f"This verifier: {self.matrix.tally()}. e3nn's tool: {sum(c == self.repeats for c in faults)} of "
            f"{len(faults)} faults rejected in every run ({sum(c is None for c in faults)} have no form for it), "
            f"{sum(bool(c) for c in controls)} of {len(controls)} controls rejected in some run."
        )
        return f"{table(HEADER, rows)}\n\n{tally}\n"


def side_by_side(
    keys: Iterable[str] | None = None,
    *,
    seed: int = 0,
    repeats: int = REPEATS,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Run this verifier with all its checks, and e3nn's tool at its defaults.

    Args:
        keys: entries, or None for all.
        seed: seed of this verifier's run.
        repeats: seeded runs of e3nn's tool.
        progress: gets one line per entry.

    Returns:
        What both said.
    """
    outcomes: list[Outcome] = []
    theirs: list[int | None] = []
    for key in [entry(k).key for k in keys] if keys is not None else CATALOGUE:
        theirs.append(e3nn_failures(entry(key), repeats))
        outcomes.append(run_entry(key, seed))
        if progress is not None:
            progress(f"{outcomes[-1].line()} e3nn {_fraction(theirs[-1], repeats)}")
    return Comparison(KillMatrix(tuple(outcomes)), tuple(theirs), repeats)


def _fraction(count: int | None, repeats: int) -> str:
    return "–" if count is None else f"{count}/{repeats}"


def _row(outcome: Outcome, theirs: str) -> list[str]:
    checks = ", ".join(outcome.checks) or "–"
    return [outcome.key, outcome.title, checks, outcome.verdict, number(outcome.error), theirs, outcome.precedent]
