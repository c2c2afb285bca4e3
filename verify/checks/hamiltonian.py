"""Symmetries of a predicted Hamiltonian: H(j, i, -R) = H(i, j, R)^+, and time reversal of non-magnetic blocks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..adapters import fresh_copy
from ..context import Context, NotApplicable
from ..graph_subject import GraphSubject
from ..measure import relative_error
from ..result import CheckResult, Verdict
from ..subject import quiet
from ..tolerances import verdict_of

Blocks = Mapping[tuple[int, ...], np.ndarray]


def _blocks(context: Context) -> Blocks:
    subject = context.subject
    if not isinstance(subject, GraphSubject):
        raise NotApplicable("not a graph model")
    with quiet(subject.dtype):
        found = subject.adapter.blocks(subject.model, fresh_copy(context.states[0].graph))
    if not found:
        raise NotApplicable("the outputs are not Hamiltonian blocks")
    return found


def _result(context: Context, name: str, errors: dict[str, float], message: str) -> CheckResult:
    error = max(errors.values(), default=0.0)
    tolerance = context.loosest()
    verdict = verdict_of(error, tolerance, context.subject.dtype)
    worst = max(errors, key=lambda k: errors[k], default="")
    text = "" if verdict is Verdict.PASS else f"{message}, worst at {worst}"
    return CheckResult(name, verdict, error, tolerance, text, len(errors), details={"worst": worst})


def hermiticity(context: Context) -> CheckResult:
    """max |H(j, i, -R) - H(i, j, R)^+| over the RMS of all blocks; every block needs its partner."""
    blocks = _blocks(context)
    scale = float(np.sqrt(np.mean(np.concatenate([np.abs(b).ravel() ** 2 for b in blocks.values()]))))
    errors: dict[str, float] = {}
    for (rx, ry, rz, i, j), block in blocks.items():
        partner = blocks.get((-rx, -ry, -rz, j, i))
        gap = np.inf if partner is None else float(np.max(np.abs(partner - block.conj().T), initial=0.0))
        errors[str((rx, ry, rz, i, j))] = relative_error(gap, scale)
    return _result(context, "hermiticity", errors, "H(j,i,-R) is not the conjugate transpose of H(i,j,R)")


def time_reversal(context: Context) -> CheckResult:
    """max |sigma_y H* sigma_y - H| over the RMS of all blocks (spin-major blocks of non-magnetic data)."""
    blocks = _blocks(context)
    if not all(np.iscomplexobj(b) for b in blocks.values()):
        raise NotApplicable("the blocks carry no spin")
    if not getattr(getattr(context.subject, "adapter", None), "time_reversal", False):
        raise NotApplicable("the adapter does not say time_reversal = True: the data may be magnetic")
    scale = float(np.sqrt(np.mean(np.concatenate([np.abs(b).ravel() ** 2 for b in blocks.values()]))))
    errors: dict[str, float] = {}
    for key, block in blocks.items():
        rows, columns = block.shape[0] // 2, block.shape[1] // 2
        uu, ud, du, dd = block[:rows, :columns], block[:rows, columns:], block[rows:, :columns], block[rows:, columns:]
        gap = float(np.max(np.abs(np.concatenate([dd - uu.conj(), du + ud.conj()], axis=None)), initial=0.0))
        errors[str(key)] = relative_error(gap, scale)
    return _result(context, "time_reversal", errors, "the blocks are not time-reversal symmetric")
