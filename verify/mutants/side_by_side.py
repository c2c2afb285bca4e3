"""The same faults and controls through `e3nn.util.test.assert_equivariant`, at its defaults."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

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


def side_by_side(
    keys: Iterable[str] | None = None,
    *,
    seed: int = 0,
    repeats: int = REPEATS,
    progress: Callable[[str], None] | None = None,
) -> str:
    """Kill matrix of this verifier with the verdict of e3nn's tool beside it, as Markdown.

    Args:
        keys: entries, or None for all.
        seed: seed of this verifier's run.
        repeats: seeded runs of e3nn's tool.
        progress: gets one line per entry.

    Returns:
        Table and tally.
    """
    outcomes: list[Outcome] = []
    theirs: list[int | None] = []
    for key in [entry(k).key for k in keys] if keys is not None else CATALOGUE:
        theirs.append(e3nn_failures(entry(key), repeats))
        outcomes.append(run_entry(key, seed))
        if progress is not None:
            progress(f"{outcomes[-1].line()} e3nn {_fraction(theirs[-1], repeats)}")
    rows = [_row(outcome, _fraction(count, repeats)) for outcome, count in zip(outcomes, theirs, strict=True)]
    every = [c for o, c in zip(outcomes, theirs, strict=True) if not o.control]
    some = [c for o, c in zip(outcomes, theirs, strict=True) if o.control]
    tally = (
        f"This verifier: {KillMatrix(tuple(outcomes)).tally()}. e3nn's tool: {sum(c == repeats for c in every)} of "
        f"{len(every)} faults rejected in every run ({sum(c is None for c in every)} have no form for it), "
        f"{sum(bool(c) for c in some)} of {len(some)} controls rejected in some run."
    )
    return f"{table(HEADER, rows)}\n\n{tally}"


def _fraction(count: int | None, repeats: int) -> str:
    return "–" if count is None else f"{count}/{repeats}"


def _row(outcome: Outcome, theirs: str) -> list[str]:
    checks = ", ".join(outcome.checks) or "–"
    return [outcome.key, outcome.title, checks, outcome.verdict, number(outcome.error), theirs, outcome.precedent]
