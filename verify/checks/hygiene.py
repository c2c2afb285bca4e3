"""What every equivariance test silently assumes: the same answer twice, inputs left alone, one precision, an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..context import JUMP, Context, NotApplicable, Pair
from ..group import haar
from ..measure import Outputs
from ..result import CheckResult, Verdict
from ..subject import Leaf, State, Subject, describe, quiet
from ..tolerances import DETERMINISTIC, JITTER_FACTOR, bands, verdict_of

PERTURBATION = 1e-3  # relative size of the change that must show in some output
MAX_PROBED = 24
_NARROW = {
    torch.float64: (torch.float32, torch.bfloat16, torch.float16),
    torch.float32: (torch.bfloat16, torch.float16),
}


def determinism(context: Context) -> CheckResult:
    """The same input gives the same output: to the last bit on a CPU, within the round-off on an accelerator."""
    error, device = context.repeat_error, context.device
    tolerance = DETERMINISTIC
    if device != "cpu" and not torch.are_deterministic_algorithms_enabled():
        tolerance = context.loosest()
    verdict = verdict_of(error, tolerance, context.subject.dtype)
    message = (
        ""
        if verdict is Verdict.PASS
        else "two calls with the same input differ: dropout or noise left on, or a changing state"
    )
    return CheckResult("determinism", verdict, error, tolerance, message, 4, details={"device": device})


def inference(context: Context) -> CheckResult:
    """Without gradients (``torch.no_grad``), as networks are used, the outputs are those with them."""
    subject, state = context.subject, context.states[0]
    turned = subject.moved([state] * 2, context.elements(haar(2, context.rng("inference")), False))
    states = [state, *turned, state]  # what is kept from one call must not reach the next

    def sides(target: Subject, given: State) -> Pair:
        return target.evaluate([given], gradients=False), target.evaluate([given])

    try:
        without = subject.evaluate(states, gradients=False)
    except Exception as error:  # such as forces that are gradients
        raise NotApplicable(f"the model needs gradients: it raised {describe(error)}") from error
    return context.judge("inference", (without, subject.evaluate(states)), states=states, sides_of=lambda _: sides)


def input_mutation(context: Context) -> CheckResult:
    """A call leaves its inputs as they were."""
    changed = context.subject.mutations(context.states[0])
    verdict = Verdict.STRUCTURAL if changed else Verdict.PASS
    message = f"changed in place: {', '.join(changed)}" if changed else ""
    return CheckResult("input_mutation", verdict, float(len(changed)), 0.0, message, 1, details={"changed": changed})


class _NarrowingWatch(TorchDispatchMode):
    """Records operations that turn a tensor of the run's dtype into a narrower floating-point one."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.narrow = dtype, _NARROW[dtype]
        self.found: dict[str, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(func)
        outputs = (
            [result]
            if isinstance(result, Tensor)
            else [r for r in result or () if isinstance(r, Tensor)]
            if isinstance(result, (tuple, list))
            else []
        )
        if any(o.dtype in self.narrow for o in outputs) and not any(
            part in name for part in ("_like", "new_", "empty")
        ):
            inputs = [a for a in args if isinstance(a, Tensor)]
            if any(a.dtype is self.dtype for a in inputs):
                key = f"{name} -> {next(o.dtype for o in outputs if o.dtype in self.narrow)}"
                self.found[key] = self.found.get(key, 0) + 1
        return result


def dtype_leak(context: Context) -> CheckResult:
    """Outputs are no narrower than the inputs, and nothing on the way is rounded to a narrower type."""
    subject = context.subject
    watch = _NarrowingWatch(subject.dtype)
    with quiet(subject.dtype), watch:
        outputs = subject.raw(context.states[0])
    wrong = {
        spec.name: str(out.dtype)
        for spec, out in zip(subject.outputs, outputs, strict=True)
        if out.dtype in watch.narrow or not (out.is_floating_point() or spec.law.kind == "fixed")
    }
    count = len(wrong) + len(watch.found)
    verdict = Verdict.PRECISION if count else Verdict.PASS
    reasons = [f"{name} is {dtype}" for name, dtype in wrong.items()] + [
        f"inside: {op} ({n}x)" for op, n in watch.found.items()
    ]
    details = {"outputs": wrong, "operations": watch.found}
    return CheckResult("dtype_leak", verdict, float(count), 0.0, "; ".join(reasons[:3]), 1, details=details)


def vacuity(context: Context) -> CheckResult:
    """Outputs are finite, no block is dead, and they depend on the inputs.

    A block that is zero on all inputs proves nothing: it is VACUOUS unless declared with ``allow_zero``. So is one that
    is discontinuous at the given input, and so is a run in which nothing depends on the given geometry: a rotation
    never reaches the model. Other input irreps that no output depends on are listed, since a fault behind them cannot
    be seen.
    """
    if not context.finite:
        bad = {
            s.name: int(sum((~np.isfinite(t)).sum() for t in c))
            for s, c in zip(context.subject.outputs, context.base, strict=True)
        }
        return CheckResult(
            "vacuity", Verdict.VACUOUS, float("inf"), 0.0, f"not finite: {bad}", len(context.states), details=bad
        )
    dead, jumping = context.zero_blocks, context.jumping_blocks
    inert, moved, unmoved = _dead_inputs(context)
    undeclared = [
        name
        for name, irrep in dead
        if irrep not in context.allow_zero and irrep.split("x")[-1] not in context.allow_zero
    ]
    reasons = []
    if sum(len(c[0]) for c in context.base) == 0:
        reasons.append("the outputs have no rows")
    elif undeclared:
        reasons.append(f"zero on every input: {', '.join(undeclared[:6])} (declare with allow_zero if that is right)")
    if jumping:
        reasons.append(f"{', '.join(jumping[:6])}: {JUMP}")
    if not moved and not undeclared:
        reasons.append("the outputs do not depend on the inputs")
    elif unmoved:
        reasons.append(
            f"expected the outputs to depend on {', '.join(unmoved)}, found that none does: rotations and shifts never "
            "reach the model; pass rebuild= when the graph stores what follows from them, or declare it as a field"
        )
    verdict = Verdict.VACUOUS if reasons else Verdict.PASS
    if inert and not reasons:
        reasons.append(f"no output depends on {', '.join(inert[:6])}: a fault behind it cannot be seen")
    details = {"dead_outputs": [name for name, _ in dead], "discontinuous": jumping, "dead_inputs": inert}
    error = float(len(undeclared) + len(jumping) + (not moved) + len(unmoved))
    return CheckResult("vacuity", verdict, error, 0.0, "; ".join(reasons), len(context.states), details=details)


def _dead_inputs(context: Context) -> tuple[list[str], bool, list[str]]:
    """Input blocks without influence on any output, whether some block has any, and the geometry when none of it has.

    Geometry are the given inputs that turn: positions, the cell, vectors of edges.
    """
    subject, rng = context.subject, context.rng("vacuity")
    state = context.states[0]
    base = subject.evaluate([state])
    leaves = subject.leaves(state)
    parts = [(i, leaf, b) for i, leaf in enumerate(leaves) for b in leaf.law.blocks]
    parts = sorted(parts, key=lambda part: not part[1].given)[:MAX_PROBED]
    inert, live = [], False
    geometry: dict[bool, list[str]] = {True: [], False: []}
    for index, leaf, block in parts:
        columns = slice(block.start, block.stop)
        changed = subject.evaluate([_perturbed(subject, state, leaves, index, columns, rng)])
        moved = _differ(base, changed, JITTER_FACTOR * bands(subject.dtype).eps)
        live = live or moved
        if not moved:
            inert.append(f"{leaf.name} {block.name}")
        if leaf.given and block.l > 0:
            geometry[moved].append(leaf.name)
    return inert, live, [] if geometry[True] else geometry[False]


def _perturbed(
    subject: Any, state: State, leaves: Sequence[Leaf], index: int, columns: slice, rng: np.random.Generator
) -> State:
    values = [leaf.value.clone() for leaf in leaves]
    part = values[index][..., columns]
    size = float(part.double().square().mean().sqrt()) or 1.0
    noise = torch.from_numpy(rng.normal(size=tuple(part.shape))).to(part)
    values[index][..., columns] = part + PERTURBATION * size * noise
    return subject.with_leaves(state, values)


def _differ(first: Outputs, second: Outputs, tolerance: float) -> bool:
    for a, b in zip(first, second, strict=True):
        if a[0].shape != b[0].shape or not np.all(np.abs(a[0] - b[0]) <= tolerance * (np.abs(a[0]) + np.abs(b[0]))):
            return True
    return False
