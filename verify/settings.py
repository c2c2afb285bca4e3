"""The settings of the paper's tables on small structures with the orbitals of the six databases."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers

from tracegrad.data import DATABASES, Structure
from tracegrad.graph import TargetLayout, build_graph
from tracegrad.model import DeepHE3, HarmoSE, Induction, NetworkSizes
from tracegrad.model.output import OutputTransform

from .adapter_tracegrad import TraceGradAdapter
from .checks import GRAPH_CHECKS, OPTIONAL_CHECKS
from .checks.budget import symmetry_error_mev
from .context import Context
from .graph_subject import GraphSubject
from .result import CheckResult, Verdict, worst
from .runner import run_checks

SETTINGS = {
    "DeepHE3": Induction(),
    "DeepHE3+Trace": Induction(trace=True, form="packed", width=12, trace_width=12),
    "DeepHE3+Grad": Induction(operator=True, form="packed", width=12, trace_width=12),
    "DeepHE3+TraceGrad": Induction(operator=True, trace=True, form="low_rank", width=12, trace_width=12),
}
TRIALS = 6
OTHER_SEED = 1000  # of the structure of the fit: the derivative of the reference jumps at its shortest distance
DEPTHS = (1, 2, 3, 5)
CORE = (
    "rotation",
    "inversion",
    "translation",
    "node_permutation",
    "edge_permutation",
    "far_fragment",
    "supercell",
    "hermiticity",
    "time_reversal",
    "vacuity",
    "pole",
)
"""What is checked of every setting on every set of orbitals; the whole method on `FULL` gets all checks."""

FULL = ("MG", "BB")
"""The first sets of orbitals without and with spin."""


@dataclass(frozen=True)
class Case:
    """One setting on one set of orbitals.

    Args:
        database: key of the database whose orbitals are used.
        setting: key of `SETTINGS`.
        full: whether all checks run.
    """

    database: str
    setting: str
    full: bool


def _cases() -> dict[str, Case]:
    """All settings on the orbitals of all databases."""
    found = [
        Case(key, setting, key in FULL and setting == "DeepHE3+TraceGrad") for key in DATABASES for setting in SETTINGS
    ]
    return {f"{case.database}/{case.setting}": case for case in found}


CASES = _cases()

APPROXIMATE = {"MM/HarmoSE": "DeepHE3", "MM/HarmoSE+TraceGrad": "DeepHE3+TraceGrad"}
"""Settings of Table 3 that are equivariant only approximately -> setting of their first stage."""

EXACT_IN_HARMOSE = ("translation", "node_permutation", "edge_permutation", "supercell", "hermiticity", "vacuity")


@cache
def layout_of(database: str) -> TargetLayout:
    """Targets of a database: its elements, orbitals and spin."""
    record = DATABASES[database]
    orbitals = {atomic_numbers[symbol]: shells for symbol, shells in record.orbitals_bundled.items()}
    return TargetLayout(orbitals, record.spinful)


def small_graph(database: str, seed: int = 0) -> Any:
    """Graph of three atoms in a periodic layer without any symmetry (two equal atoms would have a centre of inversion).

    Args:
        database: key of the database whose elements are used.
        seed: seed of the displacements.

    Returns:
        Graph in float64.
    """
    layout = layout_of(database)
    numbers = np.array([layout.elements[k % len(layout.elements)] for k in range(3)])
    draw = np.random.default_rng(seed)
    positions = np.array([[0.0, 0.0, 0.0], [1.1, 1.3, 0.4], [2.5, 0.6, 1.9]]) + 0.1 * draw.normal(size=(3, 3))
    structure = Structure(
        numbers=numbers,
        positions=positions,
        cell=np.array([[3.6, 0.2, 0.0], [-0.3, 3.4, 0.1], [0.1, 0.0, 12.0]]),
        pbc=np.array([True, True, False]),
        orbitals={int(Z): layout.orbitals[int(Z)] for Z in set(numbers.tolist())},
        spinful=layout.spinful,
        name=database,
    )
    return build_graph(structure, layout, r_max=3.2)


def small_model(database: str, setting: str, seed: int = 0, num_blocks: int = 2) -> DeepHE3:
    """Untrained network of a setting, small, in float64; its scales and two-centre reference fit random targets.

    Args:
        database: key of the database whose orbitals are predicted.
        setting: key of `SETTINGS`.
        seed: seed of the weights.
        num_blocks: pairs of node and edge update.
    """
    sizes = NetworkSizes("6x0e+3x1o+3x2e+2x3o", 8, 3, num_blocks, 4.0, 8, "none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        targets = layout_of(database)
        model = DeepHE3(targets, sizes, SETTINGS[setting], output=OutputTransform(targets, True, True)).double()
        model.calibrate([with_random_targets(small_graph(database, seed + OTHER_SEED), targets)])
        return model


def with_random_targets(graph: Any, targets: TargetLayout) -> Any:
    """The graph with normally distributed targets from torch's generator, Hermitian on site, eV."""
    loops, pairs = (torch.randn(n, targets.irreps.dim, dtype=torch.float64) for n in (graph.num_nodes, graph.num_pairs))
    index, sign = targets.partner
    on_site = 0.5 * (loops + loops[:, index] * sign)
    wigner = [D[: graph.num_nodes + graph.num_pairs] for D in graph.wigner]
    graph.target_frame = targets.frame.to_frame(torch.cat([on_site, pairs]), wigner)
    return graph


def _context(database: str, setting: str, seed: int, num_blocks: int = 2) -> Context:
    """Verification context of a small model."""
    graph = small_graph(database, seed)
    model = small_model(database, setting, seed, num_blocks)
    subject = GraphSubject(model, graph, TraceGradAdapter(layout_of(database)), torch.float64)
    return Context(subject, seed, TRIALS, None, 0)


def check_setting(key: str, seed: int = 0) -> list[CheckResult]:
    """Checks of one case.

    Args:
        key: key of `CASES`.
        seed: seed of structure, weights and verifier.

    Returns:
        The checks that apply.
    """
    case = CASES[key]
    seed += list(DATABASES).index(case.database)  # some databases share their orbitals: other atoms and weights
    names = [name for name in GRAPH_CHECKS if name in CORE or (case.full and name not in OPTIONAL_CHECKS)]
    return run_checks(_context(case.database, case.setting, seed), names, GRAPH_CHECKS, diagnose=False).checks


def check_approximate(key: str, seed: int = 0, budget_mev: float | None = None) -> list[CheckResult]:
    """HarmoSE, with its correction as large as after training: exact where it claims to be, and never passed as exact.

    Args:
        key: one of `APPROXIMATE`.
        seed: seed of structure, weights and verifier.
        budget_mev: largest error that passes, meV per component; None measures only.

    Returns:
        The checks that hold exactly, and "approximate", whose error is in meV.
    """
    database, setting = key.split("/")
    first = small_model(database, APPROXIMATE[key], seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = HarmoSE(first, width=16, num_blocks=1, heads=2).double()
        torch.nn.init.normal_(model.correction.weight, std=1e-2)
    subject = GraphSubject(model, small_graph(database, seed), TraceGradAdapter(layout_of(database)), torch.float64)
    context = Context(subject, seed, TRIALS, None, 0)
    found = {
        c.name: c for c in run_checks(context, [*EXACT_IN_HARMOSE, "rotation"], GRAPH_CHECKS, diagnose=False).checks
    }
    rotation, limit = found.pop("rotation"), budget_mev if budget_mev is not None else math.inf
    rms, largest = symmetry_error_mev(context)
    text = f"{setting}, random weights, not exact: {rms:.3g} meV per component (largest {largest:.3g} meV), "
    text += "no budget" if budget_mev is None else f"budget {limit:g} meV"
    verdict = Verdict.PASS if rms <= limit else Verdict.STRUCTURAL
    if rotation.passed:
        verdict, text = Verdict.VACUOUS, f"{setting} passes as exact: its second stage was not tested"
    details = {"rms_mev": rms, "largest_mev": largest, "unit": "meV", "rotation": rotation.verdict.value}
    return [*found.values(), CheckResult("approximate", verdict, rms, limit, text, TRIALS, details=details)]


def check_depth(seed: int = 0) -> CheckResult:
    """Rotation error against the number of blocks K, for the picture: round-off grows slowly or not at all.

    Args:
        seed: seed of structure, weights and verifier.

    Returns:
        Check "depth"; ``details["errors"]`` holds (K, error, tolerance).
    """
    rows = []
    for depth in DEPTHS:
        context = _context("MG", "DeepHE3+TraceGrad", seed, depth)
        (check,) = run_checks(context, ["rotation"], GRAPH_CHECKS, diagnose=False).checks
        rows.append((depth, check))
    nearest = min((check for _, check in rows), key=lambda c: c.margin)
    verdict = worst(check.verdict for _, check in rows)
    message = "" if verdict is Verdict.PASS else "the error grows with depth beyond round-off"
    errors = [[depth, check.error, check.tolerance] for depth, check in rows]
    return CheckResult(
        "depth", verdict, nearest.error, nearest.tolerance, message, TRIALS * len(DEPTHS), details={"errors": errors}
    )
