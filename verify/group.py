"""Elements of the Euclidean group: how they are drawn, and how they act on points and on irreps.

An element is (q, p, t): rotation by the quaternion q, then the inversion when p is True, then the shift t (Å).
Points: r -> (-1)^p R(q) r + t. Irreps: x^(l, parity) -> parity^p D^l(R) x.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from .wigner import Array, Basis, wigner_D

MAX_INTEGER = 50  # components of the integer quaternions


@dataclass(frozen=True)
class Elements:
    """Batch of n group elements.

    Args:
        quaternions: (n, 4) as (w, x, y, z), any length but zero.
        inversion: (n,) bool.
        translation: (n, 3), Å.
    """

    quaternions: Array
    inversion: np.ndarray
    translation: Array

    @classmethod
    def of(
        cls,
        quaternions: Iterable[Sequence[float]] | Array,
        inversion: bool | np.ndarray = False,
        translation: Array | None = None,
    ) -> Elements:
        """Elements from quaternions, one flag or one per element, and shifts (zero when None)."""
        q = np.array(quaternions if isinstance(quaternions, np.ndarray) else list(quaternions), dtype=float).reshape(
            -1, 4
        )
        p = np.broadcast_to(np.asarray(inversion, dtype=bool), (len(q),)).copy()
        t = np.zeros((len(q), 3)) if translation is None else np.asarray(translation, dtype=float).reshape(-1, 3)
        return cls(q, p, np.broadcast_to(t, (len(q), 3)).copy())

    def __len__(self) -> int:
        return len(self.quaternions)

    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> Elements:
        return Elements(self.quaternions[index], self.inversion[index], self.translation[index])

    @staticmethod
    def concatenate(parts: Sequence[Elements]) -> Elements:
        """All the elements of the parts, in order."""
        return Elements(
            np.concatenate([p.quaternions for p in parts]),
            np.concatenate([p.inversion for p in parts]),
            np.concatenate([p.translation for p in parts]),
        )

    @cached_property
    def rotation(self) -> Array:
        """(n, 3, 3) proper rotation matrices; exact to one rounding for integer quaternions."""
        return rotation_matrix(self.quaternions)

    @cached_property
    def matrix(self) -> Array:
        """(n, 3, 3) orthogonal matrices with the inversion applied."""
        return np.where(self.inversion, -1.0, 1.0)[:, None, None] * self.rotation

    def move(self, points: Array) -> Array:
        """Images of points (n, ..., 3), one batch of points per element.

        Sums are taken term by term, so that equal points have equal images to the last bit.
        """
        m = self.matrix.reshape((len(self),) + (1,) * (points.ndim - 2) + (3, 3))
        t = self.translation.reshape((len(self),) + (1,) * (points.ndim - 2) + (3,))
        moved = m[..., 0] * points[..., :1] + m[..., 1] * points[..., 1:2] + m[..., 2] * points[..., 2:]
        return moved + t if t.any() else moved

    def wigner(self, degrees: list[int], basis: Basis) -> dict[int, Array]:
        """{l: (n, 2l+1, 2l+1)} of the proper rotations."""
        return wigner_D(degrees, self.quaternions, basis)


def rotation_matrix(quaternions: Array) -> Array:
    """Rotation matrices of quaternions (n, 4): products of the components over the squared length, no trigonometry."""
    w, x, y, z = quaternions.T
    rows = [
        [w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z],
    ]
    result: Array = np.moveaxis(np.array(rows), -1, 0) / (quaternions**2).sum(axis=1)[:, None, None]
    return result


def quaternion_product(first: Array, second: Array) -> Array:
    """Hamilton product (n, 4): R(first second) = R(first) R(second)."""
    a, b, c, d = first.T
    w, x, y, z = second.T
    parts = [
        a * w - b * x - c * y - d * z,
        a * x + b * w + c * z - d * y,
        a * y - b * z + c * w + d * x,
        a * z + b * y - c * x + d * w,
    ]
    return np.stack(parts, axis=1)


def quaternion_between(source: Array, target: Array) -> Array:
    """Unit quaternion (4,) of the shortest rotation that carries the direction of source to that of target."""
    a, b = source / np.linalg.norm(source), target / np.linalg.norm(target)
    middle = a + b
    length = np.linalg.norm(middle)
    if length < 1e-8:  # opposite: half turn about any axis normal to a
        normal = np.cross(a, np.eye(3)[int(np.argmin(np.abs(a)))])
        return np.concatenate([[0.0], normal / np.linalg.norm(normal)])
    middle = middle / length
    return np.concatenate([[float(a @ middle)], np.cross(a, middle)])


def haar(n: int, rng: np.random.Generator) -> Array:
    """n unit quaternions distributed by the Haar measure of SO(3): normalised Gaussian 4-vectors."""
    q = rng.normal(size=(n, 4))
    return np.asarray(q / np.linalg.norm(q, axis=1, keepdims=True))


def integer_quaternions(n: int, rng: np.random.Generator) -> Array:
    """n non-zero quaternions with integer components in [-50, 50]; their rotations are rational."""
    q = rng.integers(-MAX_INTEGER, MAX_INTEGER + 1, size=(n, 4)).astype(float)
    q[~q.any(axis=1), 0] = 1.0
    return q


def octahedral() -> Array:
    """(24, 4) integer quaternions of the rotations of the cube."""
    found: dict[tuple[int, ...], tuple[int, ...]] = {}
    for q in sorted(product((-1, 0, 1), repeat=4), key=lambda v: (sum(map(abs, v)), [-c for c in v])):
        lead = next((c for c in q if c), 0)
        if lead <= 0 or sum(map(abs, q)) == 3:
            continue
        key = tuple(np.rint(rotation_matrix(np.array([q], dtype=float))[0]).astype(int).ravel())
        if sum(map(abs, key)) == 3:
            found.setdefault(key, q)
    return np.array(list(found.values()), dtype=float)


def near_pole(offsets: Sequence[float] = (1e-1, 1e-3, 1e-6, 1e-8)) -> Array:
    """Rotations by a small angle, or by a little less than pi, about x, y and z: poles of every Euler convention."""
    rows = []
    for offset in offsets:
        for axis in range(3):
            for w, s in ((1.0, offset), (offset, 1.0)):
                q = [w, 0.0, 0.0, 0.0]
                q[1 + axis] = s
                rows.append(q)
    return np.array(rows)


def aligning(
    direction: Array, offsets: Sequence[float] = (0.0, 1e-2, 1e-5, 1e-8), signs: Sequence[float] = (1.0, -1.0)
) -> Array:
    """Rotations that carry a direction exactly, and almost, onto the axes x, y, z with the given signs."""
    rows = []
    for axis, sign in product(range(3), signs):
        for offset in offsets:
            target = sign * np.eye(3)[axis] + offset * np.eye(3)[(axis + 1) % 3]
            rows.append(quaternion_between(direction, target))
    return np.array(rows)


def simple_quaternions(limit: int = 2) -> Array:
    """Integer quaternions with components at most ``limit``, simplest first; of q and -q one, the identity not."""
    rows = [q for q in product(range(-limit, limit + 1), repeat=4) if any(q[1:]) and next(c for c in q if c) > 0]
    rows.sort(key=lambda q: (sum(c * c for c in q), sum(c < 0 for c in q), [abs(c) for c in q]))
    return np.array(rows, dtype=float)
