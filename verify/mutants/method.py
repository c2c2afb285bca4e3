r"""Faults of the method itself: trace labels (T1-T3), gradient operators (V1-V3), and the rest (F1-F7)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from e3nn import o3
from torch import Tensor

from ..conventions import check_hermitian_signs, check_orbital_convention, own_orbital_matrix
from ..operators import GradientOperator
from ..result import CheckResult
from ..theorems import TraceLabel, check_gradient_operator, check_trace_label
from ..wigner import Array
from .frames import edge_frame_subject
from .kinds import Mutant

FEATURES = "3x0e + 3x1o + 3x2e"


def trace_without_dagger(block: Tensor, spinful: bool) -> Tensor:
    """tr(Q Q): the dagger forgotten; defined for equal degrees only."""
    matrix = block.movedim(-3, -2).flatten(-2).flatten(-3, -2) if spinful else block
    return (matrix @ matrix).diagonal(dim1=-2, dim2=-1).sum(-1).real


def sum_of_moduli(block: Tensor, spinful: bool) -> Tensor:
    """Sum of |Q|."""
    return block.abs().flatten(1).sum(1)


def square_of_sum(block: Tensor, spinful: bool) -> Tensor:
    """|sum of Q|^2."""
    return block.flatten(1).sum(1).abs().square()


def one_spin_block(block: Tensor, spinful: bool) -> Tensor:
    """Norm of the up-up block alone."""
    part = block[:, 0, 0] if spinful else block
    return part.abs().square().flatten(1).sum(1)


def transposed_D(l: int, R: Array) -> Tensor:
    """The representation of the inverse rotation."""
    return own_orbital_matrix(l, R).mT


def reversed_order(l: int, R: Array) -> Tensor:
    """Orbitals in the order m = l..-l."""
    return own_orbital_matrix(l, R).flip(0, 1)


class OneComponentNonlinear(GradientOperator):
    """s_nonlin also sees one component of the l = 2 coupling of f with itself."""

    def couple(self, f: Tensor) -> Tensor:
        u = super().couple(f)
        return torch.cat([u[..., :1] + _l2_coupling(self, f)[..., :1], u[..., 1:]], dim=-1)


class ComponentwiseNonlinear(GradientOperator):
    """SiLU on every component of the l = 2 coupling, summed into u."""

    def couple(self, f: Tensor) -> Tensor:
        return super().couple(f) + torch.nn.functional.silu(_l2_coupling(self, f)).sum(-1, keepdim=True)


class RandomCoupling(GradientOperator):
    """A random matrix in place of CG(., 0)."""

    def couple(self, f: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(7)
        sound = self.couplings
        self.couplings = [torch.randn(c.shape, generator=generator, dtype=c.dtype) / len(c) for c in sound]
        u = super().couple(f)
        self.couplings = sound
        return u


class DetachedGradient(GradientOperator):
    """One of the two factors of f x f cut from the graph: half the gradient."""

    def couple(self, f: Tensor) -> Tensor:
        parts = zip(self.weights, self.couplings, self.split(f), strict=True)
        return torch.stack([torch.einsum("cij,mn,...im,...jn->...c", w, c, p, p.detach()) for w, c, p in parts]).sum(0)

    def scalar(self, f: Tensor) -> Tensor:
        total: Tensor = self.nonlinearity(self.couple(f)).sum()
        return total


class ComponentLayerNorm(GradientOperator):
    """LayerNorm over the components of v."""

    def finish(self, v: Tensor, f: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(v, v.shape[-1:])


class ComponentGate(GradientOperator):
    """f multiplied by a gate with one value per component instead of one per irrep."""

    def finish(self, v: Tensor, f: Tensor) -> Tensor:
        return v * torch.sigmoid(v)


def _l2_coupling(operator: GradientOperator, f: Tensor) -> Tensor:
    """Components (..., 5) of the l = 2 coupling of the first vectors with themselves."""
    index = next(i for i, (_, ir) in enumerate(operator.irreps) if ir.l == 1)
    vectors = operator.split(f)[index][..., 0, :]
    symbols = o3.wigner_3j(1, 1, 2, dtype=f.dtype, device=f.device)
    return torch.einsum("...m,...n,mnk->...k", vectors, vectors, symbols)


def _label(label: TraceLabel, equal_degrees: bool = False) -> Callable[[int], CheckResult]:
    return lambda seed: check_trace_label(label, lmax=4, seed=seed, examples=0, equal_degrees=equal_degrees)


def _operator(kind: type[GradientOperator]) -> Callable[[int], CheckResult]:
    def run(seed: int) -> CheckResult:
        operator = kind(FEATURES, seed=seed)
        sound = GradientOperator(FEATURES, seed=seed)
        # the scalar is that of the formula; the closed form is the method's
        return check_gradient_operator(
            operator, FEATURES, scalar=sound.scalar, closed_form=sound.closed_form, seed=seed
        )

    return run


def _hermitian(sign: Callable[[int, int, bool], Tensor]) -> Callable[[int], CheckResult]:
    from tracegrad.so3 import block_to_irreps

    return lambda seed: check_hermitian_signs(
        sign, lambda b, l1, l2, spinful: block_to_irreps(b, l1, l2, spinful), seed=seed
    )


def no_signs(l1: int, l2: int, spinful: bool) -> Tensor:
    """The partner taken over without its signs (-1)^(l1 + l2 + l)."""
    from tracegrad.so3 import hermitian_signs

    return torch.ones_like(hermitian_signs(l1, l2, spinful))


def sound_signs(l1: int, l2: int, spinful: bool) -> Tensor:
    """The signs of `tracegrad.so3`."""
    from tracegrad.so3 import hermitian_signs

    return hermitian_signs(l1, l2, spinful)


def _run(key: str, title: str, run: Callable[[int], CheckResult], found_by: str, control: bool = False) -> Mutant:
    return Mutant(key, "method", title, run=run, found_by=found_by, control=control)


MUTANTS = (
    _run("T1", "T = tr(QQ), the dagger dropped", _label(trace_without_dagger, equal_degrees=True), "theorem_1"),
    _run("T2", "T = sum |Q|", _label(sum_of_moduli), "theorem_1"),
    _run("T2b", "T = |sum Q|^2", _label(square_of_sum), "theorem_1"),
    _run(
        "T3",
        "D transposed on both sides",
        lambda seed: check_orbital_convention(transposed_D, seed=seed, lmax=2),
        "orbital_convention",
    ),
    _run(
        "T3b",
        "m order reversed on both sides",
        lambda seed: check_orbital_convention(reversed_order, seed=seed, lmax=2),
        "orbital_convention",
    ),
    _run("V1", "s_nonlin sees one l=2 component", _operator(OneComponentNonlinear), "theorem_2"),
    _run("V2", "SiLU on all l=2 components", _operator(ComponentwiseNonlinear), "theorem_2"),
    _run("V3", "random matrix in place of CG(., 0)", _operator(RandomCoupling), "theorem_2"),
    _run("F1", "trace over one spin block", _label(one_spin_block), "theorem_1"),
    _run("F2", "gradient through a detached f", _operator(DetachedGradient), "theorem_2"),
    _run("F3", "LayerNorm over the components of v", _operator(ComponentLayerNorm), "theorem_2"),
    _run("F4", "gate applied per component", _operator(ComponentGate), "theorem_2"),
    Mutant("F5", "method", "edge frame from acos at the pole", edge_frame_subject("acos"), found_by="pole"),
    Mutant("F6", "method", "frame gauge leak", edge_frame_subject("gauge"), found_by="rotation"),
    _run("F7", "Hermitian partner with the wrong sign", _hermitian(no_signs), "hermitian_partner"),
)

CONTROLS = (
    _run("CT", "T = squared Frobenius norm", _label(lambda b, s: b.abs().square().flatten(1).sum(1)), "", control=True),
    _run("CV", "the sound gradient operator", _operator(GradientOperator), "", control=True),
    _run(
        "CD",
        "the verifier's D and its oracles",
        lambda seed: check_orbital_convention(own_orbital_matrix, seed=seed, lmax=2),
        "",
        control=True,
    ),
    Mutant("CF", "method", "edge frame from atan2", edge_frame_subject("atan2"), control=True),
    _run("CH", "the Hermitian partner with its signs", _hermitian(sound_signs), "", control=True),
)
