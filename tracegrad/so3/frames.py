"""Edge frames, and the layout of features in them (derivation: ``docs/core.md``).

In the frame whose pole is the edge, a map that commutes with the rotations about the edge and with the reflections
through it never mixes different ``|m|`` and acts on ``+m`` and ``-m`` with one and the same matrix. Features are
therefore kept as one block per ``m >= 0``: ``blocks[0]`` has shape ``(E, 1, K_0)``, ``blocks[m]`` has shape
``(E, 2, K_m)``, where column ``k`` is a channel of degree ``l >= m`` and the two rows are its even and odd partner
under the reflection ``y -> -y``.

For an irrep of natural parity, ``p = (-1)^l``, the even row is the component ``+m`` and the odd row is ``-m``. For
unnatural parity the reflection carries one more sign, so the even row is ``-m`` and the odd row is minus ``+m``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from tracegrad.errors import DataError
from tracegrad.so3.rotations import wigner_D, wigner_D_from_angles
from tracegrad.so3.traces import is_transient

FrameBlocks = list[Tensor]
NEAR_POLE = 1e-2  # ratio of the distance from the polar axis to the height, below which angles are poor coordinates
BLAS_PRODUCT = 400  # multiplications of a small product from which on PyTorch gives a batch of them to BLAS


def is_natural(l: int, p: int) -> bool:
    """True when an irrep has the parity of its spherical harmonic, ``p = (-1)^l``."""
    return p == (1 if l % 2 == 0 else -1)


class FrameLayout:
    """Order of the channels of some irreps, and of their components, in the frame of an edge.

    Channels are sorted by degree, natural parity first, otherwise in the order of ``irreps``; the channels of the
    ``m``-th block are then the last ``widths[m]`` of all channels. Tensors are kept, and made with the layout outside
    inference mode, so that a layout first used for a prediction or in a trace can be trained with.

    Args:
        irreps: e3nn irreps, simplified or not; components ``m = -l .. l`` with ``z`` polar.

    Attributes:
        component_index: position and sign: ``flat_frame[..., c] = sign[c] * irreps_vector[..., position[c]]``.
        component_channel: channel of every component of the flat frame vector, ``(dim,)``.
        reversal_signs: signs that the reversal of the edge gives to the components of the flat frame vector,
            ``(dim,)``. The frame of ``-r`` is the frame of ``r`` turned by ``pi`` about its ``y`` axis: ``(-1)^l`` for
            ``m >= 0``, ``-(-1)^l`` for ``m < 0``.
    """

    @torch.inference_mode(False)
    def __init__(self, irreps: Irreps | str) -> None:
        self.irreps = Irreps(irreps)
        channels = [
            (ir.l, not is_natural(ir.l, ir.p), start + u * ir.dim)
            for (mul, ir), start in zip(self.irreps, (s.start for s in self.irreps.slices()), strict=True)
            for u in range(mul)
        ]
        order = sorted(range(len(channels)), key=lambda k: channels[k][:2])
        self.order = order
        self.channels = [channels[k] for k in order]
        self.num_channels = len(order)
        self.lmax = max((l for l, _, _ in self.channels), default=0)
        self.degrees = torch.tensor([l for l, _, _ in self.channels], dtype=torch.long)
        self.starts = [sum(l < m for l, _, _ in self.channels) for m in range(self.lmax + 1)]
        self.widths = [self.num_channels - start for start in self.starts]
        self.dim = self.irreps.dim
        self.component_index = self._component_index()
        rows = [torch.arange(self.starts[m], self.num_channels) for m in range(self.lmax + 1)]
        self.component_channel = torch.cat([r if m == 0 else r.repeat(2) for m, r in enumerate(rows)])
        self.reversal_signs = self._reversal_signs()
        # channels of every group in every block
        self._group_sizes = [[mul for mul, l, _ in self.groups if l >= m] for m in range(self.lmax + 1)]
        self._layouts: dict[str, FrameLayout] = {}

    @cached_property
    def groups(self) -> list[tuple[int, int, bool]]:
        """Runs of equal irreps in the channel order: ``(mul, l, natural)``."""
        runs: list[tuple[int, int, bool]] = []
        for l, unnatural, _ in self.channels:
            if runs and runs[-1][1:] == (l, not unnatural):
                runs[-1] = (runs[-1][0] + 1, l, not unnatural)
            else:
                runs.append((1, l, not unnatural))
        return runs

    @cached_property
    def sorted_irreps(self) -> Irreps:
        """The irreps of the channels in the order of the frame, simplified."""
        return Irreps([(mul, (l, (-1) ** l if natural else -((-1) ** l))) for mul, l, natural in self.groups])

    @property
    def without_scalars(self) -> FrameLayout:
        """Layout of the channels with ``l > 0`` alone."""
        return self._layout("without_scalars", lambda: [entry for entry in self.sorted_irreps if entry.ir.l > 0])

    @property
    def doubled(self) -> FrameLayout:
        """Layout with every irrep twice: the channels of one source, then those of another."""
        return self._layout("doubled", lambda: [(2 * mul, ir) for mul, ir in self.sorted_irreps])

    def _layout(self, name: str, entries: Callable[[], list[Any]]) -> FrameLayout:
        """A layout made from this one, and kept where no trace is under way."""
        known = self._layouts.get(name)
        if known is None:
            known = FrameLayout(Irreps(entries()))
            if not is_transient(known.degrees):
                self._layouts[name] = known
        return known

    def _component_index(self) -> tuple[Tensor, Tensor]:
        position, sign = [], []
        for m in range(self.lmax + 1):
            for row in range(1 if m == 0 else 2):
                for l, unnatural, start in self.channels[self.starts[m] :]:
                    component = m if (row == 0) != unnatural else -m
                    position.append(start + l + component)
                    sign.append(-1.0 if unnatural and row == 1 else 1.0)
        return torch.tensor(position, dtype=torch.long), torch.tensor(sign, dtype=torch.float64)

    def _reversal_signs(self) -> Tensor:
        signs = []
        for m in range(self.lmax + 1):
            for row in range(1 if m == 0 else 2):
                for l, unnatural, _ in self.channels[self.starts[m] :]:
                    positive = m == 0 or ((row == 0) != unnatural)
                    signs.append(float((-1) ** l if positive else -((-1) ** l)))
        return torch.tensor(signs, dtype=torch.float64)

    def split(self, flat: Tensor) -> FrameBlocks:
        """Views of a flat frame vector ``(E, dim)`` as blocks ``(E, 1 or 2, K_m)``."""
        blocks, start = [], 0
        for m, width in enumerate(self.widths):
            rows = 1 if m == 0 else 2
            blocks.append(flat[:, start : start + rows * width].reshape(-1, rows, width))
            start += rows * width
        return blocks

    def flatten(self, blocks: FrameBlocks) -> Tensor:
        """Concatenate blocks into the flat frame vector ``(E, dim)``."""
        return torch.cat([block.flatten(1) for block in blocks], dim=1)

    def permute(self, vector: Tensor) -> Tensor:
        """Reorder an irreps vector ``(..., dim)`` into the flat frame order, without any rotation."""
        position, sign = self.component_index
        return vector[..., position.to(vector.device)] * sign.to(vector)

    def unpermute(self, flat: Tensor) -> Tensor:
        """Inverse of :meth:`permute`."""
        position, sign = self.component_index
        inverse = torch.argsort(position)
        return (flat * sign.to(flat))[..., inverse.to(flat.device)]

    def to_fields(self, blocks: FrameBlocks) -> list[Tensor]:
        """Blocks regrouped by irrep: ``(rows, 2l+1, mul)`` for every group, components ``0, +1, -1, +2, -2, ...``."""
        pieces = [block.split(sizes, dim=2) for block, sizes in zip(blocks, self._group_sizes, strict=True)]
        offsets = [len(self.groups) - len(sizes) for sizes in self._group_sizes]
        return [
            torch.cat([pieces[m][k - offsets[m]] for m in range(l + 1)], dim=1) if l else pieces[0][k]
            for k, (_, l, _) in enumerate(self.groups)
        ]

    def from_fields(self, fields: list[Tensor]) -> FrameBlocks:
        """Inverse of :meth:`to_fields`."""
        rows = [field.split([1] + [2] * (field.shape[1] // 2), dim=1) for field in fields]
        return [torch.cat([row[m] for row in rows if len(row) > m], dim=2) for m in range(self.lmax + 1)]

    def rotate_fields(
        self, fields: list[Tensor], frames: EdgeFrames | list[Tensor], *, inverse: bool = False
    ) -> list[Tensor]:
        """Rotate the fields of :meth:`to_fields` from the global frame into the edge frames, or back.

        Args:
            fields: ``(E, 2l+1, mul)`` for every group.
            frames: frames of the edges, or their matrices from :func:`frame_wigner`.
            inverse: from the edge frames to the global frame.
        """
        frames = frames if isinstance(frames, EdgeFrames) else EdgeFrames(frames)
        rotated = []
        for field, (_, l, natural) in zip(fields, self.groups, strict=True):
            D = frames.matrix(l, natural)
            rotated.append(field if l == 0 else _batched_product(D.transpose(1, 2) if inverse else D, field))
        return rotated

    def to_frame(self, vector: Tensor, wigner: list[Tensor]) -> Tensor:
        """Rotate an irreps vector ``(E, dim)`` into the frames of the edges, as a flat frame vector ``(E, dim)``."""
        fields = self.to_fields(self.split(self.permute(vector)))
        return self.flatten(self.from_fields(self.rotate_fields(fields, wigner)))

    def from_frame(self, flat: Tensor, wigner: list[Tensor]) -> Tensor:
        """Inverse of :meth:`to_frame`."""
        fields = self.rotate_fields(self.to_fields(self.split(flat)), wigner, inverse=True)
        return self.unpermute(self.flatten(self.from_fields(fields)))


class EdgeFrames:
    """Frames of some edges, for irreps of both parities.

    Args:
        wigner: ``wigner[l]`` of shape ``(E, 2l+1, 2l+1)`` from :func:`frame_wigner`.
    """

    def __init__(self, wigner: list[Tensor]) -> None:
        self.wigner = wigner
        self._unnatural: dict[int, Tensor] = {}

    @property
    def requires_grad(self) -> bool:
        """True where the frames depend on positions that are differentiated."""
        return any(D.requires_grad for D in self.wigner)

    def matrix(self, l: int, natural: bool) -> Tensor:
        """Matrices of degree ``l``, made once for unnatural parity.

        Raises:
            DataError: the frames do not reach that degree.
        """
        if l >= len(self.wigner):
            raise DataError(
                f"expected frames up to degree {l}, found them up to {len(self.wigner) - 1}; build the graph with "
                f"lmax={l} or more"
            )
        if natural:
            return self.wigner[l]
        if is_transient(self.wigner[l]):
            return unnatural_wigner(self.wigner[l])
        if l not in self._unnatural:
            self._unnatural[l] = unnatural_wigner(self.wigner[l])
        return self._unnatural[l]


def _batched_product(matrices: Tensor, fields: Tensor) -> Tensor:
    """``matrices @ fields``, ``(E, a, a) @ (E, a, mul)``.

    Below 400 multiplications per edge, PyTorch leaves its BLAS for a loop that is three times slower. Products that
    come close get rows of zeros.
    """
    size, mul = fields.shape[1:]
    rows = math.ceil(BLAS_PRODUCT / (size * mul))
    if not size < rows <= 2 * size:
        return matrices @ fields
    return (nn.functional.pad(matrices, (0, 0, 0, rows - size)) @ fields)[:, :size]


def edge_angles(edge_vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Azimuth and polar angle of vectors ``(..., 3)`` in Å, by ``atan2``: exact at the poles, 0 for a zero vector."""
    x, y, z = edge_vectors.unbind(-1)
    return torch.atan2(y, x), torch.atan2(torch.hypot(x, y), z)


def _frame_rows(l: int) -> list[int]:
    """Component of every row in a frame: ``0, +1, -1, +2, -2, ...``, as indices into ``m = -l .. l``."""
    return [l] + [l + sign * m for m in range(1, l + 1) for sign in (1, -1)]


def frame_wigner(edge_vectors: Tensor, lmax: int) -> list[Tensor]:
    r"""Wigner matrices that rotate irreps from the global frame into the frame of each edge.

    .. math:: D^l(Q^T), \qquad Q = R_z(\varphi)\, R_y(\vartheta), \qquad Q\,\hat z = \hat r

    Args:
        edge_vectors: ``(E, 3)``, Å; a zero vector has the identity as its frame.
        lmax: largest degree.

    Returns:
        List over ``l`` of ``(E, 2l+1, 2l+1)``, rows and columns in the order ``m = 0, +1, -1, +2, -2, ...``. Their
        derivatives near the polar axis are those of another gauge (a turn about the edge that is smooth there), so only
        what does not depend on the gauge, such as any output of a network, can be differentiated.
    """
    return _smooth_frames(edge_vectors, lmax) if edge_vectors.requires_grad else _angle_frames(edge_vectors, lmax)


def _angle_frames(edge_vectors: Tensor, lmax: int) -> list[Tensor]:
    """The matrices of :func:`frame_wigner` from the angles, which have no derivatives at the poles."""
    azimuth, polar = edge_angles(edge_vectors)
    zero = torch.zeros_like(azimuth)
    matrices = [wigner_D_from_angles(l, zero, -polar, -azimuth) for l in range(lmax + 1)]
    return [D[:, _frame_rows(l)][:, :, _frame_rows(l)] for l, D in enumerate(matrices)]


def _smooth_frames(edge_vectors: Tensor, lmax: int) -> list[Tensor]:
    r"""The same matrices with derivatives at the poles as well.

    .. math:: D(Q^T) = C\, D(Q'^T)\, D(P), \qquad Q' \hat z = P \hat r

    ``P`` exchanges the axes, so that ``P r`` is far from the poles where ``r`` is near one. The constant ``C``, a turn
    about the edge, makes the values those of the angles of ``r``. A zero vector is a constant.
    """
    exchange = torch.eye(3).to(edge_vectors)[[1, 2, 0]]
    y_axis, z_axis = exchange[:2]
    vectors = torch.where((edge_vectors == 0).all(1, keepdim=True), z_axis, edge_vectors)
    near = (vectors[:, :2].norm(dim=1) < NEAR_POLE * vectors[:, 2].abs())[:, None]
    values = _angle_frames(vectors.detach(), lmax)
    away = _angle_frames(torch.where(near, y_axis, vectors), lmax)
    turned = _angle_frames(torch.where(near, vectors, y_axis) @ exchange.T, lmax)
    frames = []
    for l, (value, far, close) in enumerate(zip(values, away, turned, strict=True)):
        product = close @ frame_matrix(l, exchange)
        frames.append(torch.where(near[..., None], (value @ product.mT).detach() @ product, far))
    return frames


def frame_matrix(l: int, R: Tensor) -> Tensor:
    """Wigner matrix of a rotation ``(3, 3)`` with rows and columns in the order ``m = 0, +1, -1, +2, -2, ...``."""
    return wigner_D(l, R)[_frame_rows(l)][:, _frame_rows(l)]


def unnatural_wigner(D: Tensor) -> Tensor:
    """The same rotations for an irrep of unnatural parity, whose rows are ``0, (-1), -(+1), (-2), -(+2), ...``."""
    return _unnatural_order(_unnatural_order(D).mT).mT


def _unnatural_order(rows: Tensor) -> Tensor:
    """Components ``0, +1, -1, +2, -2, ...`` of the last axis in the order of :func:`unnatural_wigner`."""
    plus, minus = rows[..., 1::2], rows[..., 2::2]
    return torch.cat([rows[..., :1], torch.stack([minus, -plus], dim=-1).flatten(-2)], dim=-1)


def reversed_wigner(wigner: list[Tensor]) -> list[Tensor]:
    r"""Matrices of the reversed edges: the frame of ``-r`` is that of ``r`` turned by ``pi`` about its ``y`` axis.

    .. math:: D^l(R_y(\pi))_{mm} = (-1)^l \; (m \ge 0), \qquad -(-1)^l \; (m < 0)
    """
    matrices = []
    for l, D in enumerate(wigner):
        signs = [float((-1) ** l if row == 0 or row % 2 else -((-1) ** l)) for row in range(2 * l + 1)]
        matrices.append(D * D.new_tensor(signs)[:, None])
    return matrices
