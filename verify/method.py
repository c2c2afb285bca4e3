"""Theorems and conventions, on the verifier's own formulation and on tracegrad's implementation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tracegrad.model import GradientInduction
from tracegrad.so3 import (
    block_irreps,
    block_to_irreps,
    hermitian_signs,
    irreps_to_block,
    spin_half_D,
    trace_label,
    trace_labels_of_irreps,
    wigner_D,
)

from .conventions import (
    check_block_irreps,
    check_hermitian_signs,
    check_orbital_convention,
    own_orbital_matrix,
    own_spin_matrix,
)
from .operators import NONLINEARITIES, GradientOperator
from .result import CheckResult, worst
from .theorems import check_gradient_operator, check_trace_label, frobenius_label
from .wigner import Array

FEATURES = "6x0e + 4x1o + 2x1e + 3x2e + 2x3o + 2x4e"
"""Irreps of the features on which tracegrad's operator is tested."""


def library_trace_label(block: Tensor, spinful: bool) -> Tensor:
    """`tracegrad.so3.trace_label` on every kind of block; a complex spinless block is two real ones."""
    if spinful:
        return trace_label(block.to(torch.complex128))
    return trace_label(block.real) + trace_label(block.imag) if block.is_complex() else trace_label(block)


def label_of_irreps(block: Tensor, spinful: bool) -> Tensor:
    """`tracegrad.so3.trace_labels_of_irreps` of the irreps of a block."""
    l1, l2 = (block.shape[-2] - 1) // 2, (block.shape[-1] - 1) // 2
    parts = [block.to(torch.complex128)] if spinful else ([block.real, block.imag] if block.is_complex() else [block])
    vectors = [block_to_irreps(part.contiguous(), l1, l2, spinful) for part in parts]
    return torch.stack([trace_labels_of_irreps(v, [v.shape[-1]])[..., 0] for v in vectors]).sum(0)


def check_theorem_1(seed: int = 0, examples: int = 60) -> CheckResult:
    """Theorem 1 for the Frobenius norm written out here and for both of tracegrad's labels, degrees up to 6.

    Args:
        seed: seed of blocks and rotations.
        examples: cases of the search, per label.
    """
    labels = (
        ("own", frobenius_label),
        ("trace_label", library_trace_label),
        ("trace_labels_of_irreps", label_of_irreps),
    )
    results = [check_trace_label(label, seed=seed, examples=examples, name=name) for name, label in labels]
    return combine(
        "theorem_1", results, "T invariant and equal to the squared Frobenius norm, degrees 0..6, 3 implementations"
    )


def check_theorem_2(lmax: int = 12, channels: int = 4, seed: int = 0) -> CheckResult:
    """Theorem 2 for the verifier's own operator: every degree alone and all together, every kind of s_nonlin.

    Args:
        lmax: largest degree.
        channels: channels per degree.
        seed: seed of weights and features.

    Returns:
        The worst result, renamed "theorem_2".
    """
    cases = [f"{channels}x{l}{'eo'[(l + k) % 2]}" for k in range(2) for l in range(lmax + 1)]
    cases += [" + ".join(f"{channels}x{l}{'eo'[l % 2]}" for l in range(min(lmax, 5) + 1))]
    results = []
    for index, irreps in enumerate(cases):
        for kind in NONLINEARITIES:
            operator = GradientOperator(irreps, kind=kind, seed=seed + index)
            results.append(
                check_gradient_operator(
                    operator,
                    irreps,
                    scalar=operator.scalar,
                    closed_form=operator.closed_form,
                    seed=seed + index,
                    trials=2,
                )
            )
    return combine(
        "theorem_2", results, f"v equivariant, equal to its closed form: degrees 0..{lmax}, {len(NONLINEARITIES)} kinds"
    )


def check_gradient_induction(seed: int = 0) -> list[CheckResult]:
    """Theorem 2 for `tracegrad.model.GradientInduction`, both forms of W: its v, its oracle by autograd, its scalar.

    Args:
        seed: seed of weights and features.

    Returns:
        One result per form.
    """
    results = []
    for form in ("packed", "low_rank"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = GradientInduction(FEATURES, width=16, num_invariants=6, form=form).double()
        results.append(
            check_gradient_operator(
                _second(module),
                FEATURES,
                scalar=lambda f, module=module: module(f)[0].sum(),  # type: ignore[misc]
                closed_form=module.by_autograd,
                seed=seed,
                name=f"gradient_induction_{form}",
            )
        )
    return results


def _second(module: torch.nn.Module) -> Callable[[Tensor], Tensor]:
    """The v of a module that gives (z, v)."""

    def v(f: Tensor) -> Tensor:
        result: Tensor = module(f)[1]
        return result

    return v


def check_library_conventions(seed: int = 0) -> list[CheckResult]:
    """`tracegrad.so3` against recomputed Hamiltonians: D, D^{1/2}, irreps of blocks, signs of the partner.

    Args:
        seed: seed of structures and rotations.

    Returns:
        "orbital_convention" for the verifier's own matrices and for tracegrad's, "block_irreps", "hermitian_partner".
    """

    def orbital(l: int, R: Array) -> Tensor:
        return wigner_D(l, torch.from_numpy(R))

    def spin(R: Array) -> Tensor:
        return spin_half_D(torch.from_numpy(R))

    def there(block: Tensor, l1: int, l2: int, spinful: bool) -> Tensor:
        return block_to_irreps(block, l1, l2, spinful)

    def and_back(block: Tensor, l1: int, l2: int, spinful: bool) -> Tensor:
        return there(irreps_to_block(there(block, l1, l2, spinful), l1, l2, spinful), l1, l2, spinful)

    def layout(l1: int, l2: int, spinful: bool) -> list[tuple[int, int]]:
        return [(mul, ir.l) for mul, ir in block_irreps(l1, l2, spinful)]

    return [
        check_orbital_convention(own_orbital_matrix, own_spin_matrix, seed=seed, name="orbital_convention"),
        check_orbital_convention(orbital, spin, seed=seed, name="tracegrad: orbital_convention"),
        check_block_irreps(and_back, layout, seed=seed, name="tracegrad: block_irreps"),
        check_hermitian_signs(
            lambda l1, l2, spinful: hermitian_signs(l1, l2, spinful),
            there,
            seed=seed,
            name="tracegrad: hermitian_partner",
        ),
    ]


def combine(name: str, results: Sequence[CheckResult], message: str) -> CheckResult:
    """One result for several: worst verdict, the error nearest to its tolerance, all trials.

    Args:
        name: name of the combined result.
        results: at least one.
        message: what a pass means.

    Returns:
        Combined result; its message is that of the first failure when there is one.
    """
    nearest = min(results, key=lambda r: r.margin)
    failures = [r for r in results if not r.passed]
    errors: dict[str, float] = {}
    for result in results:
        for part, error in result.details.get("errors", {}).items():
            errors[part] = max(error, errors.get(part, 0.0))
    return CheckResult(
        name,
        worst(r.verdict for r in results),
        nearest.error,
        nearest.tolerance,
        f"{failures[0].name} {failures[0].message}" if failures else message,
        sum(r.trials for r in results),
        details={"errors": errors, "cases": len(results)},
    )
