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

REPEATS = 5
POINTS = 7


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
            arguments = [
                torch.randn(POINTS, 3 if e == "cartesian_points" else o3.Irreps(e).dim) for e in subject.irreps_in
            ]
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
    """Markdown table of what each tool says about every entry.

    Args:
        keys: entries, or None for all.
        seed: seed of this verifier's run.
        repeats: seeded runs of e3nn's tool.
        progress: gets one line per entry.

    Returns:
        Table and tally.
    """
    rows, caught, flagged, faults, controls = [], 0, 0, 0, 0
    for key in [entry(k).key for k in keys] if keys is not None else CATALOGUE:
        mutant = entry(key)
        failures = e3nn_failures(mutant, repeats)
        ours = run_entry(key, seed)
        text = "no form for it" if failures is None else f"{failures}/{repeats}"
        rows.append([key, mutant.title, text, ours.verdict, number(ours.error)])
        if mutant.control:
            controls, flagged = controls + 1, flagged + bool(failures)
        else:
            faults, caught = faults + 1, caught + (failures == repeats)
        if progress is not None:
            progress(f"{key}: e3nn {text}, this verifier {ours.verdict}")
    tally = f"e3nn rejects {caught} of {faults} faults in every run, and {flagged} of {controls} controls in some run."
    return f"{table(['#', 'fault or control', 'e3nn rejects', 'this verifier', 'error'], rows)}\n\n{tally}"
