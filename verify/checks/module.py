"""What a module may hide from a test of one state of it: its other mode, other weights, the calls before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import Module

from ..context import Context, NotApplicable
from ..group import haar
from ..result import CheckResult
from ..subject import State, Subject, describe

TRIALS = 4
FACTORS = (0.5, 1.5)  # of a tensor of weights; a common one, since a dense matrix may be equivariant as a whole only
START = 0.1  # standard deviation given to weights that are all zero


def modes(context: Context) -> CheckResult:
    """The symmetry holds in the other mode too: in evaluation for a module given in training mode, and the reverse."""
    training = not _module(context).training
    other = f"{'training' if training else 'evaluation'} mode"
    return _turned(context, "modes", _copy(context, lambda module: module.train(training)), f"in {other}")


def weights(context: Context) -> CheckResult:
    """The symmetry holds with rescaled weights and none at zero, behind which a faulty branch hides until training."""
    if not any(p.requires_grad and p.is_floating_point() for p in _module(context).parameters()):
        raise NotApplicable("the module has no weights to train")
    rng = context.rng("weights")
    return _turned(context, "weights", _copy(context, lambda module: _change(module, rng)), "with other weights")


def history(context: Context) -> CheckResult:
    """What was computed before does not matter: a copy that saw another input first agrees with one that did not."""
    first, second, state = _copy(context), _copy(context), context.states[0]
    if not context.repeatable:
        raise NotApplicable("the function is not deterministic")
    try:
        second.evaluate([_another(context, state)])
    except Exception as error:  # an input that the verifier has made up
        raise NotApplicable(f"the model raised {describe(error)} on another input") from error
    return context.judge("history", (second.evaluate([state]), first.evaluate([state])), states=[state])


def _module(context: Context) -> Module:
    if context.subject.module is None:
        raise NotApplicable("not a module")
    return context.subject.module


def _copy(context: Context, change: Callable[[Module], Any] | None = None) -> Subject:
    copy = context.subject.renewed(change)
    if copy is None:
        raise NotApplicable("not a module")
    return copy


def _another(context: Context, state: State) -> State:
    """Another input: of fewer rows where they can be left out, else turned, with larger features."""
    subject = context.subject
    count = subject.num_rows(state)
    fewer = subject.take_rows(state, range(count - 1)) if count > 1 else None
    if fewer is not None:
        return fewer
    (turned,) = subject.moved([state], context.elements(haar(1, context.rng("history")), False))
    return subject.with_leaves(turned, [1.1 * leaf.value for leaf in subject.leaves(turned)])


def _change(module: Module, rng: np.random.Generator) -> None:
    """Rescale every tensor of weights that is trained, and fill those that are zero."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                values = rng.normal(scale=START, size=tuple(parameter.shape))
                parameter.mul_(rng.uniform(*FACTORS))
                if not bool(parameter.any()):
                    parameter.copy_(torch.from_numpy(np.asarray(values)))


def _turned(context: Context, name: str, subject: Subject, where: str) -> CheckResult:
    """Rotations, half of them with the inversion, of a changed copy, judged by its own round-off."""
    inner = Context(subject, context.seed, TRIALS, context.tol, parity=context.parity)
    elements = context.elements(haar(TRIALS, context.rng(name)), np.arange(TRIALS) % 2 == 1)
    try:
        if not inner.repeatable:
            raise NotApplicable(f"two calls with one input differ {where}")
        if not inner.finite:
            raise NotApplicable(f"the outputs are not finite {where}")
        states, base = inner.first(TRIALS)
        left = subject.evaluate(subject.moved(states, elements))
    except NotApplicable:
        raise
    except Exception as error:  # a state of the module that nobody has asked for
        raise NotApplicable(f"the model raised {describe(error)} {where}") from error
    result = inner.judge(name, (left, subject.acted(base, elements)), states=states)
    if not result.passed:
        return replace(result, message=f"{where}: {result.message}")
    return result
