"""Forces are minus the gradient of the energy: symmetric forces can still be wrong, and then dynamics heats up."""

from __future__ import annotations

import numpy as np

from ..context import Context, NotApplicable
from ..graph_subject import GraphSubject
from ..measure import relative_error
from ..result import CheckResult, Verdict
from ..tolerances import bands

DIRECTIONS = 4
_STEPS = (1e-4, 1e-5, 1e-3, 1e-2)  # Å


def force_consistency(context: Context) -> CheckResult:
    """-<F, d> against (E(x + h d) - E(x - h d)) / 2h along random directions; fails above 1e-5 for every step.

    E is the sum of the rows of ``energy``, be they those of atoms or of graphs.
    """
    subject = context.subject
    names = [spec.name for spec in subject.outputs]
    if not isinstance(subject, GraphSubject) or "energy" not in names or "forces" not in names:
        raise NotApplicable("the outputs are not an energy and forces")
    rng, state = context.rng("forces"), context.states[0]
    energy, forces = names.index("energy"), context.base[names.index("forces")][0]
    leaf = next((leaf for leaf in subject.leaves(state) if leaf.law.kind == "points"), None)
    if leaf is None:
        raise NotApplicable("no field of the graph holds the positions")
    points = leaf.value.detach().cpu().double().numpy()
    eps, norm, worst = bands(subject.dtype).eps, float(np.linalg.norm(forces)), 0.0
    for _ in range(DIRECTIONS):
        direction = rng.normal(size=points.shape)
        slope = -float((forces * direction).sum())
        errors = []
        for h in _STEPS:
            states = []
            for sign in (1.0, -1.0):
                moved = leaf.value.new_tensor(points + sign * h * direction)
                leaves = [moved if other.name == leaf.name else other.value for other in subject.leaves(state)]
                states.append(subject.with_leaves(state, leaves))
            plus, minus = (float(v[:, 0].sum()) for v in subject.evaluate(states)[energy])
            numeric = (plus - minus) / (2 * h)
            noise = 16 * eps * (abs(plus) + abs(minus)) / h
            errors.append(relative_error(abs(numeric - slope), abs(numeric), abs(slope), norm, noise=noise))
            if errors[-1] <= bands(subject.dtype).difference:
                break
        worst = max(worst, min(errors))
    limit = bands(subject.dtype).difference
    verdict = Verdict.PASS if worst <= limit else Verdict.STRUCTURAL
    message = "" if verdict is Verdict.PASS else "the forces are not minus the gradient of the energy"
    return CheckResult("force_consistency", verdict, worst, limit, message, DIRECTIONS)
