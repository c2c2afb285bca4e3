"""Tolerance policy: how large an error may be, and which verdict a larger one earns.

Per block b: tol_b = min(cap, max(16 eps (1 + lmax) sqrt(L + 1), 25 J_b)), with J_b the block's own relative change
under a 1-ulp change of the inputs. Measured on 14 correct networks x 40 settings, the worst error was 0.135 tol_b
(``docs/verification.md``, "Tolerance").
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from tracegrad.errors import VerificationError

from .result import BlockError, Verdict

STATIC_FACTOR = 16.0
JITTER_FACTOR = 25.0
JITTER_DRAWS = 8
RERUN_FACTOR = 4  # a SUSPECT is judged again with this many times the draws
GRADIENT_FACTOR = 4.0
ZERO_FACTOR = 64.0  # a block below 64 times its own round-off is zero, if it is also negligible:
NEGLIGIBLE = 0.5  # below this power of eps (half of the digits) times the largest RMS of inputs and outputs
ILL_CONDITIONED = 1e3  # in units of eps
DETERMINISTIC = 0.0
REPEATABLE = 1e3  # in units of eps: two calls of sound code on an accelerator, where sums run in any order


@dataclass(frozen=True)
class Bands:
    """Limits of one dtype.

    Args:
        eps: unit round-off of the dtype.
        cap: largest tolerance that jitter may reach.
        suspect: errors up to here are SUSPECT.
        precision: errors up to here are PRECISION, above STRUCTURAL.
        step: relative step of central differences.
        difference: largest relative error of a central difference that passes.
    """

    eps: float
    cap: float
    suspect: float
    precision: float
    step: float
    difference: float


_BANDS = {
    torch.float64: Bands(float(np.finfo(np.float64).eps), 1e-10, 1e-9, 1e-5, 1e-5, 1e-5),
    # float32 is a noise budget, never evidence of exact symmetry
    torch.float32: Bands(float(np.finfo(np.float32).eps), 1e-3, 2e-3, 2e-2, 1e-2, 2e-2),
}


def bands(dtype: torch.dtype) -> Bands:
    """Limits of a dtype.

    Raises:
        VerificationError: the dtype is neither float64 nor float32.
    """
    if dtype not in _BANDS:
        raise VerificationError(
            f"dtype {dtype} cannot be verified: use torch.float64 (the gate) or torch.float32 (a noise budget)"
        )
    return _BANDS[dtype]


def static_tolerance(dtype: torch.dtype, lmax: int, depth: int) -> float:
    """16 eps (1 + lmax) sqrt(L + 1): round-off of a network with L layers and degrees up to lmax."""
    return STATIC_FACTOR * bands(dtype).eps * (1 + lmax) * math.sqrt(depth + 1)


def block_tolerances(
    static: float, jitter: np.ndarray, dtype: torch.dtype, factor: float = 1.0, extra: float = 0.0
) -> np.ndarray:
    """Tolerance per block.

    Args:
        static: static term.
        jitter: (blocks,) relative change under 1-ulp noise.
        dtype: dtype of the run; fixes the cap.
        factor: 4 for gradients.
        extra: added term of a block with a jitter of eps, such as eps |t| / |edge| for translations; of a block that
            amplifies round-off more, as much more.

    Returns:
        (blocks,) largest relative errors that pass.
    """
    noise = np.nan_to_num(jitter, nan=0.0, posinf=math.inf)
    limits = factor * np.maximum(static, JITTER_FACTOR * noise)
    if extra:
        limits = limits + extra * np.maximum(1.0, noise / bands(dtype).eps)
    result: np.ndarray = np.minimum(limits, max(bands(dtype).cap, static * factor))
    return result


def repeats(error: float, device: str, dtype: torch.dtype) -> bool:
    """True when two calls with one input agree: to the last bit on a CPU, within the order of sums elsewhere.

    Args:
        error: largest relative change of a block.
        device: kind of the device.
        dtype: dtype of the run.
    """
    exact = device == "cpu" or torch.are_deterministic_algorithms_enabled()
    return error <= (DETERMINISTIC if exact else REPEATABLE * bands(dtype).eps)


def verdict_of(error: float, tolerance: float, dtype: torch.dtype) -> Verdict:
    """Band of a relative error: PASS up to the tolerance, then SUSPECT, PRECISION, STRUCTURAL (NaN and inf too)."""
    limit = bands(dtype)
    if error <= tolerance:
        return Verdict.PASS
    if error <= limit.suspect:
        return Verdict.SUSPECT
    return Verdict.PRECISION if error <= limit.precision else Verdict.STRUCTURAL


def jumps(block: BlockError) -> bool:
    """True where a 1-ulp change of the inputs moves a block as much as round-off moves a zero: it is discontinuous."""
    return not block.zero and ZERO_FACTOR * block.jitter >= 1


def block_verdict(block: BlockError, dtype: torch.dtype) -> Verdict:
    """Band of a block; a zero passes, and a discontinuous one is SUSPECT at most, since nothing can be said of it."""
    found = Verdict.PASS if block.zero else verdict_of(block.error, block.tolerance, dtype)
    return Verdict.SUSPECT if jumps(block) and found is not Verdict.PASS else found


def reading_of_ratio(ratio: float) -> str:
    """What the float32 / float64 error ratio says: round-off scales with eps, a broken formula does not."""
    if ratio > 1e7:
        return "round-off (scales with the precision)"
    return (
        "structural (does not scale with the precision)"
        if ratio < 10
        else "small additive break or a leak of lower precision"
    )
