"""Irrep content of an output over the orbit of its input, by orthogonality of the matrix elements.

For an equivariant output of type (l, p), every component y_m(g x) is a combination of the row m of D^(l,p)(g).
Peter-Weyl: the amplitude on any other matrix element D^(k,q)_ab is a leak, and (k, q) says of what kind.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

from .group import Elements, quaternion_product
from .representation import Representation
from .wigner import Array, wigner_D

MAX_DEGREE = 3
VISIBLE = 1e-3  # a leak below this fraction of the largest one is not named


def haar_quadrature(degree: int) -> tuple[Array, Array]:
    """Quaternions and weights that integrate products of two matrix elements of degree <= ``degree`` exactly.

    Uniform in the two angles about z, Gauss-Legendre in cos(beta).

    Args:
        degree: largest l of both factors.

    Returns:
        (n, 4) quaternions, (n,) weights of sum 1, n = (2 degree + 1)^2 (degree + 1).
    """
    count = 2 * degree + 1
    angles = 2 * np.pi * np.arange(count) / count
    cosines, weights = np.polynomial.legendre.leggauss(degree + 1)
    betas = np.arctan2(np.sqrt(1 - cosines**2), cosines)

    def turn(values: Array, axis: int) -> Array:
        q = np.zeros((len(values), 4))
        q[:, 0], q[:, axis] = np.cos(values / 2), np.sin(values / 2)
        return q

    rows = list(product(range(count), range(degree + 1), range(count)))
    i, j, k = np.array(rows).T
    q = quaternion_product(quaternion_product(turn(angles, 3)[i], turn(betas, 2)[j]), turn(angles, 3)[k])
    return q, weights[j] / 2 / count**2


def irrep_content(
    orbit: Callable[[Elements], Array], law: Representation, cheap: bool = False
) -> list[dict[str, float]]:
    """Relative amplitude of every irrep in each block of an output, over the orbit of an input.

    Args:
        orbit: elements -> (n, rows, dim), the outputs at the transformed inputs.
        law: declared law of the output.
        cheap: True to stop at degree 2.

    Returns:
        Per block {"0e": amplitude, ...}; what the declared irrep holds in wrong components, or not alike in all of
        them, is listed as ``"1o (mixed)"``.
    """
    degree = 2 if cheap else min(max(law.lmax + 1, 2), MAX_DEGREE)
    q, weights = haar_quadrature(degree)
    parts = [orbit(Elements.of(q, inversion)) for inversion in (False, True)]
    signals = {"e": (parts[0] + parts[1]) / 2, "o": (parts[0] - parts[1]) / 2}
    matrices = wigner_D(list(range(degree + 1)), q, law.basis if law.kind == "irreps" else "e3nn")
    content = []
    for b in law.blocks_of(parts[0].shape[-1]):
        found: dict[str, float] = {}
        total = sum(float(np.einsum("n,nrc->", weights, s[..., b.start : b.stop] ** 2)) for s in signals.values())
        for sign, signal in signals.items():
            y = signal[..., b.start : b.stop].reshape(len(q), -1, b.mul, (b.stop - b.start) // b.mul)
            for k, d in matrices.items():
                amplitude = np.einsum("n,nab,nrum->rumab", weights, d, y, optimize=True)
                name = f"{k}{sign}"
                if k == b.l and sign == ("e" if b.parity == 1 else "o"):
                    own = np.einsum("rummb->rub", amplitude) / (
                        2 * k + 1
                    )  # the equivariant part: the same for all rows
                    rest = amplitude - np.einsum("ma,rub->rumab", np.eye(2 * k + 1), own)
                    found[name] = (2 * k + 1) ** 2 * float((own**2).sum())
                    found[f"{name} (mixed)"] = (2 * k + 1) * float((rest**2).sum())
                else:
                    found[name] = (2 * k + 1) * float((amplitude**2).sum())
        content.append({n: float(np.sqrt(v / total)) if total > 0 else 0.0 for n, v in found.items()})
    return content


def describe_leak(content: list[dict[str, float]], law: Representation) -> tuple[dict[str, float], str]:
    """What does not belong in the blocks of an output.

    Args:
        content: result of :func:`irrep_content`.
        law: declared law of the output.

    Returns:
        ``{"1o contains 0e": amplitude}`` and a sentence such as ``"a 1o output contains 0e (12 %)"``.
    """
    leaks: dict[str, float] = {}
    for b, found in zip(law.blocks_of(1), content, strict=True):
        declared = f"{b.l}{'e' if b.parity == 1 else 'o'}"
        for name, amplitude in found.items():
            if name != declared:
                key = f"{declared} contains {name}"
                leaks[key] = max(leaks.get(key, 0.0), amplitude)
    largest = max(leaks.values(), default=0.0)
    if largest < 1e-12:
        return {}, ""
    leaks = {k: v for k, v in sorted(leaks.items(), key=lambda item: -item[1]) if v >= VISIBLE * largest}
    declared, _, rest = next(iter(leaks)).partition(" contains ")
    names = [k.partition(" contains ")[2] for k in leaks if k.startswith(f"{declared} ")][:4]
    return leaks, f"a {declared} output contains {', '.join(names or [rest])} (largest amplitude {largest:.2g})"
