r"""Numerical verification of the two theorems of TraceGrad (arXiv:2405.05722, Section 4).

Theorem 1: T = tr(Q Q^dagger) does not change under Q -> D^p Q D^q^dagger, and equals the squared Frobenius norm.
Theorem 2: v = d s_nonlin(CGDecomp(f x f, 0)) / df carries the irreps of f, whatever s_nonlin is.

Rotations alone accept impostors (tr(QQ) is invariant too when the degrees are equal), so that Theorem 1 is also
tested under two independent rotations and under Haar-distributed orthogonal (unitary) pairs, and against the norm
itself. Rotation alone also accepts half a gradient, so that Theorem 2 is tested against finite differences and
against the closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

import hypothesis
import hypothesis.strategies as st
import numpy as np
import torch
from e3nn import o3
from torch import Tensor

from .group import haar
from .result import CheckResult, Verdict, worst
from .tolerances import verdict_of
from .wigner import spin_half, wigner_D

EPS = torch.finfo(torch.float64).eps
FINITE_DIFFERENCE_LIMIT = 1e-6

TraceLabel = Callable[[Tensor, bool], Tensor]
"""``label(block, spinful)``: block (..., 2p+1, 2q+1) or (..., 2, 2, 2p+1, 2q+1), real or complex -> (...) real."""


@dataclass(frozen=True)
class BlockCase:
    """One block of a Hamiltonian and the group elements that act on it.

    Args:
        l_p: degree of the row shell.
        l_q: degree of the column shell.
        spinful: whether the block has the two spin axes.
        is_complex: whether its entries have an imaginary part.
        left: quaternion of the rotation.
        right: quaternion of the column's own rotation, for the test with two independent ones.
        seed: seed of the block.
        rows: number of blocks drawn.
    """

    l_p: int
    l_q: int
    spinful: bool
    is_complex: bool
    left: tuple[float, ...]
    right: tuple[float, ...]
    seed: int = 0
    rows: int = 4

    def block(self) -> Tensor:
        """Blocks (rows, 2p+1, 2q+1) or (rows, 2, 2, 2p+1, 2q+1), standard normal."""
        shape = (self.rows, *((2, 2) if self.spinful else ()), 2 * self.l_p + 1, 2 * self.l_q + 1)
        generator = torch.Generator().manual_seed(self.seed)
        block = torch.randn(shape, generator=generator, dtype=torch.float64)
        if self.is_complex:
            return torch.complex(block, torch.randn(shape, generator=generator, dtype=torch.float64))
        return block

    def __str__(self) -> str:
        kind = f"{'spinful' if self.spinful else 'spinless'} {'complex' if self.is_complex else 'real'}"
        return f"l_p={self.l_p} l_q={self.l_q} {kind} q={self.left} seed={self.seed}"


def frobenius_label(block: Tensor, spinful: bool) -> Tensor:
    """Squared Frobenius norm of blocks: what Theorem 1 says the label is (sum over both spins when spinful)."""
    return block.abs().square().flatten(-4 if spinful else -2).sum(-1)


def transform_block(block: Tensor, left: Tensor, right: Tensor, spins: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Left Q right^dagger on the orbital axes, and the same on the spin axes.

    Args:
        block: (rows, 2p+1, 2q+1) or (rows, 2, 2, 2p+1, 2q+1).
        left: (2p+1, 2p+1).
        right: (2q+1, 2q+1).
        spins: (2, 2) matrices of rows and columns, for spinful blocks.

    Returns:
        as `block`; complex when a factor is.
    """
    if spins is None:
        dtype = torch.promote_types(torch.promote_types(block.dtype, left.dtype), right.dtype)
        return left.to(dtype) @ block.to(dtype) @ right.to(dtype).mH
    orbital = left.to(torch.complex128) @ block.to(torch.complex128) @ right.to(torch.complex128).mH
    return torch.einsum("st,rtumn,vu->rsvmn", spins[0], orbital, spins[1].conj())


def _rotated(block: Tensor, case: BlockCase, right: Sequence[float]) -> Tensor:
    """Block under the rotation of the case on rows and the quaternion `right` on columns."""
    quaternions = np.array([case.left, right], dtype=float)
    D = wigner_D([case.l_p, case.l_q], quaternions, "z-polar")
    rows, columns = torch.from_numpy(D[case.l_p][0].copy()), torch.from_numpy(D[case.l_q][1].copy())
    if not case.spinful:
        return transform_block(block, rows, columns)
    U = torch.from_numpy(spin_half(quaternions).copy())
    return transform_block(block, rows, columns, (U[0], U[1]))


def _haar_matrix(n: int, is_complex: bool, generator: torch.Generator) -> Tensor:
    """Orthogonal or unitary matrix of the Haar measure: QR with the phases of R's diagonal divided out."""
    a = torch.randn(n, n, generator=generator, dtype=torch.float64)
    if is_complex:
        a = torch.complex(a, torch.randn(n, n, generator=generator, dtype=torch.float64))
    q, r = torch.linalg.qr(a)
    diagonal = r.diagonal()
    result: Tensor = q * (diagonal / diagonal.abs())
    return result


def _haar_pair(block: Tensor, case: BlockCase) -> Tensor:
    """Block under two independent Haar matrices on its full row and column space."""
    generator = torch.Generator().manual_seed(case.seed + 1)
    spins = 2 if case.spinful else 1
    n, m = spins * (2 * case.l_p + 1), spins * (2 * case.l_q + 1)
    U, V = (_haar_matrix(size, case.is_complex, generator).to(block.dtype) for size in (n, m))
    flat = block.movedim(-3, -2).reshape(-1, n, m) if case.spinful else block
    moved = U @ flat @ V.mH
    if not case.spinful:
        return moved
    return moved.reshape(-1, 2, n // 2, 2, m // 2).movedim(-2, -3)


def trace_errors(label: TraceLabel, case: BlockCase) -> dict[str, float]:
    """Relative errors of a trace label on one case.

    Args:
        label: the label to test.
        case: block and rotations.

    Returns:
        "rotation": one rotation on both sides (Theorem 1); "independent rotations", "Haar pairs": the larger groups
        under which the Frobenius norm is invariant and impostors are not; "Frobenius norm": the label against the
        norm.
    """
    block = case.block()
    before = label(block, case.spinful)
    scale = float(before.abs().max())
    if not math.isfinite(scale) or scale == 0.0:
        return {"finite and not zero": math.inf}

    def change(moved: Tensor) -> float:
        return float((label(moved, case.spinful) - before).abs().max()) / scale

    norm = frobenius_label(block, case.spinful)
    return {
        "rotation": change(_rotated(block, case, case.left)),
        "independent rotations": change(_rotated(block, case, case.right)),
        "Haar pairs": change(_haar_pair(block, case)),
        "Frobenius norm": float((before - norm).abs().max() / norm.abs().max()),
    }


def trace_tolerance(case: BlockCase) -> float:
    """16 eps sqrt(2l+1), l the larger degree (twice the orbitals with spin)."""
    size = (2 * max(case.l_p, case.l_q) + 1) * (2 if case.spinful else 1)
    return 16 * EPS * math.sqrt(size)


@st.composite
def block_cases(
    draw: st.DrawFn,
    lmax: int = 6,
    spinful: bool | None = None,
    is_complex: bool | None = None,
    equal_degrees: bool = False,
) -> BlockCase:
    """Hypothesis strategy of `BlockCase`; integer quaternions, so that a failure shrinks to a simple rotation.

    Args:
        draw: given by hypothesis.
        lmax: largest degree.
        spinful: fixed choice, or None for both.
        is_complex: fixed choice, or None for both.
        equal_degrees: whether l_q = l_p.
    """
    components = st.tuples(*[st.integers(-50, 50)] * 4).filter(any)
    l_p = draw(st.integers(0, lmax))
    return BlockCase(
        l_p,
        l_p if equal_degrees else draw(st.integers(0, lmax)),
        draw(st.booleans()) if spinful is None else spinful,
        draw(st.booleans()) if is_complex is None else is_complex,
        draw(components),
        draw(components),
        draw(st.integers(0, 2**20)),
        1,
    )


def _grid(lmax: int, rng: np.random.Generator, equal_degrees: bool) -> Iterable[BlockCase]:
    """Every pair of degrees, spinless and spinful, real and complex, with Haar rotations."""
    for l_p in range(lmax + 1):
        for l_q in [l_p] if equal_degrees else range(lmax + 1):
            for spinful, is_complex in ((False, False), (False, True), (True, False), (True, True)):
                left, right = (tuple(map(float, q)) for q in haar(2, rng))
                yield BlockCase(l_p, l_q, spinful, is_complex, left, right, int(rng.integers(2**31)))


@dataclass
class _Worst:
    """Running record of the part of a check that came nearest to failing."""

    errors: dict[str, float] = field(default_factory=dict)
    worst_ratio: float = -1.0
    error: float = 0.0
    tolerance: float = 1.0
    where: str = ""
    verdicts: list[Verdict] = field(default_factory=list)

    def add(self, name: str, error: float, tolerance: float, where: str) -> None:
        """Take one error into the record; NaN counts as infinite."""
        error = math.inf if math.isnan(error) else error
        self.errors[name] = max(error, self.errors.get(name, 0.0))
        self.verdicts.append(verdict_of(error, tolerance, torch.float64))
        if error / tolerance > self.worst_ratio:
            self.worst_ratio, self.error, self.tolerance, self.where = (
                error / tolerance,
                error,
                tolerance,
                f"{name}: {where}",
            )

    def result(self, check: str, trials: int, message: str, **details: Any) -> CheckResult:
        """The check's result; the message names the worst case when it fails."""
        verdict = worst(self.verdicts)
        text = message if verdict is Verdict.PASS else f"fails at {self.where}"
        return CheckResult(
            check,
            verdict,
            self.error,
            self.tolerance,
            text,
            trials,
            details={"errors": self.errors, "worst": self.where, **details},
        )


def check_trace_label(
    label: TraceLabel,
    *,
    lmax: int = 6,
    seed: int = 0,
    examples: int = 100,
    equal_degrees: bool = False,
    name: str = "theorem_1",
) -> CheckResult:
    """Theorem 1 for one trace label: all pairs of degrees, then an adversarial search that shrinks what it finds.

    Args:
        label: the label to test, such as ``lambda block, spinful: ...``.
        lmax: largest degree of both shells.
        seed: seed of blocks and rotations.
        examples: cases of the search; 0 for none.
        equal_degrees: test l_p = l_q only (for labels that exist for nothing else).
        name: name of the result.

    Returns:
        PASS only when the label is invariant and is the squared Frobenius norm; else the shrunk case in the details.
    """
    record, trials = _Worst(), 0
    for case in _grid(lmax, np.random.default_rng(seed), equal_degrees):
        trials += 1
        for part, error in trace_errors(label, case).items():
            record.add(part, error, trace_tolerance(case), str(case))

    def fails(case: BlockCase) -> bool:
        errors = trace_errors(label, case)
        return any(not error <= trace_tolerance(case) for error in errors.values())

    found = _search(block_cases(lmax=lmax, equal_degrees=equal_degrees), fails, examples, seed)
    details = {} if found is None else {"shrunk": str(found), "shrunk_errors": trace_errors(label, found)}
    if found is not None:
        for part, error in trace_errors(label, found).items():
            record.add(part, error, trace_tolerance(found), str(found))
    message = (
        f"T invariant and equal to the squared Frobenius norm, degrees 0..{lmax}, real, complex, spinless, spinful"
    )
    return record.result(name, trials + examples, message, **details)


def _search(strategy: st.SearchStrategy[Any], fails: Callable[[Any], bool], examples: int, seed: int) -> Any:
    """Smallest case that fails, or None."""
    if examples <= 0:
        return None
    settings = hypothesis.settings(
        max_examples=examples,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    try:
        return hypothesis.find(strategy, fails, settings=settings, random=Random(seed))
    except hypothesis.errors.NoSuchExample:
        return None


class Operator(Protocol):
    """What Theorem 2 is tested on: v = operator(f), and optionally its scalar and its closed form."""

    def __call__(self, f: Tensor, /) -> Tensor:
        """v (rows, dim) of f (rows, dim)."""
        ...


def check_gradient_operator(
    operator: Operator,
    irreps: o3.Irreps | str,
    *,
    scalar: Callable[[Tensor], Tensor] | None = None,
    closed_form: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    rows: int = 8,
    trials: int = 4,
    name: str = "theorem_2",
) -> CheckResult:
    """Theorem 2 for one gradient-induced operator: v turns and mirrors as f does, and is the gradient it claims to be.

    Args:
        operator: f (rows, dim) -> v (rows, dim).
        irreps: irreps of f and v, components m = -l..l with z polar.
        scalar: f -> the scalar whose gradient v is, for the finite-difference test.
        closed_form: f -> v by the closed form, compared with `operator`.
        seed: seed of f and of the rotations.
        rows: rows of f.
        trials: rotations, every second one followed by the inversion.
        name: name of the result.

    Returns:
        The worst of "rotation", "inversion", "finite difference", "closed form" and "not zero", per irrep.
    """
    irreps = o3.Irreps(irreps)
    generator = torch.Generator().manual_seed(seed)
    f = torch.randn(rows, irreps.dim, generator=generator, dtype=torch.float64)
    v = operator(f).detach()
    noise = torch.randn(f.shape, generator=generator, dtype=torch.float64)
    record = _Worst()
    scales = [float(v[:, s].square().mean().sqrt()) for s in irreps.slices()]
    jitter = _block_errors(operator(f * (1 + EPS * noise)).detach(), v, irreps, scales)
    tolerances = [min(max(16 * EPS * (1 + ir.l), 25 * j), 1e-10) for (_, ir), j in zip(irreps, jitter, strict=True)]
    largest = max((s for s in scales if math.isfinite(s)), default=0.0)
    for (_, ir), scale in zip(irreps, scales, strict=True):
        record.add("not zero", 0.0 if scale > 1e-9 * largest else math.inf, 1.0, f"irrep {ir}")
    for trial, quaternion in enumerate(haar(trials, np.random.default_rng(seed))):
        D = _representation(irreps, quaternion, inversion=trial % 2 == 1)
        part = "inversion" if trial % 2 else "rotation"
        errors = _block_errors(operator(f @ D.mT).detach(), v @ D.mT, irreps, scales)
        for (_, ir), error, tolerance in zip(irreps, errors, tolerances, strict=True):
            record.add(part, error, tolerance, f"irrep {ir}, quaternion {np.round(quaternion, 3).tolist()}")
    if scalar is not None:
        error = _finite_difference_error(scalar, f, v, noise)
        record.add("finite difference", error, FINITE_DIFFERENCE_LIMIT, "directional derivative of the scalar")
    if closed_form is not None:
        errors = _block_errors(closed_form(f).detach(), v, irreps, scales)
        for (_, ir), error, tolerance in zip(irreps, errors, tolerances, strict=True):
            record.add("closed form", error, tolerance, f"irrep {ir}")
    return record.result(name, trials, "v carries the irreps of f and is the gradient of its scalar")


def _representation(irreps: o3.Irreps, quaternion: np.ndarray, inversion: bool) -> Tensor:
    """Block-diagonal matrix of one group element, z polar."""
    D = wigner_D(list(irreps.ls), quaternion[None], "z-polar")
    blocks = [torch.from_numpy(D[ir.l][0] * (ir.p if inversion else 1)) for mul, ir in irreps for _ in range(mul)]
    result: Tensor = torch.block_diag(*blocks)
    return result


def _block_errors(found: Tensor, expected: Tensor, irreps: o3.Irreps, scales: Sequence[float]) -> list[float]:
    """RMS of the difference over the scale, per entry of the irreps."""
    difference = found - expected
    rms = [float(difference[:, s].square().mean().sqrt()) for s in irreps.slices()]
    return [error / scale if scale > 0 else math.inf for error, scale in zip(rms, scales, strict=True)]


def _finite_difference_error(scalar: Callable[[Tensor], Tensor], f: Tensor, v: Tensor, direction: Tensor) -> float:
    """Central difference (fourth order) of the scalar along a direction against <v, direction>."""
    step = 1e-3
    direction = direction / direction.norm(dim=-1, keepdim=True)
    values = [float(scalar(f + k * step * direction).detach().sum()) for k in (-2, -1, 1, 2)]
    slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    projected = float((v * direction).sum())
    return abs(slope - projected) / max(abs(slope), abs(projected), float(v.norm()))
