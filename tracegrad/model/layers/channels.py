"""Operations on frame blocks, channel by channel, and the way between nodes and edges; each is the adjoint of another.

Written as autograd functions, because the derivative of one is another of them: that saves the zero-filled and summed
temporaries of slices. Where a transform of ``torch.func`` or a compiler is at work they are plain operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tracegrad.so3.frames import EdgeFrames, FrameBlocks, FrameLayout
from tracegrad.so3.traces import is_traced


def scale_channels(blocks: FrameBlocks, factor: Tensor, starts: list[int]) -> FrameBlocks:
    """``blocks[m] * factor[:, starts[m]:]``: one factor per channel.

    Args:
        blocks: ``(rows, 1 or 2, K_m)``.
        factor: ``(rows, K)`` or ``(1, K)``.
        starts: first channel of every block.
    """
    return list(_scaled(blocks, factor, starts) if is_traced() else _Scale.apply(factor, starts, *blocks))


def channel_squares(blocks: FrameBlocks, starts: list[int]) -> Tensor:
    """Sum over components of the squares of every channel, ``(rows, K)``."""
    result: Tensor = _dot(blocks, blocks, starts) if is_traced() else _Squares.apply(starts, *blocks)
    return result


def channel_dot(first: FrameBlocks, second: FrameBlocks, starts: list[int]) -> Tensor:
    """Sum over components of the products of equal channels, ``(rows, K)``; ``K`` is the width of the first block."""
    if is_traced():
        return _dot(first, second, starts)
    result: Tensor = _Dot.apply(starts, len(first), *first, *second)
    return result


def to_edges(fields: list[Tensor], layout: FrameLayout, frames: EdgeFrames, indices: tuple[Tensor, ...]) -> FrameBlocks:
    """Features of nodes in the frames of the edges.

    Args:
        fields: ``(N, 2l+1, mul)`` for every irrep, global frame.
        layout: channels of the result: every irrep once per source.
        frames: frames of the edges.
        indices: for every source, the node of each edge, ``(E,)``.

    Returns:
        Blocks ``(E, 1 or 2, K_m)``; of each irrep the channels of the first source, then those of the second.
    """
    return list(_to_edges(fields, layout, frames, indices))


def to_nodes(
    blocks: FrameBlocks, layout: FrameLayout, frames: EdgeFrames, index: Tensor, num_nodes: int
) -> list[Tensor]:
    """Sum over the edges of every node, in the global frame: the adjoint of :func:`to_edges`.

    Args:
        blocks: ``(E, 1 or 2, K_m)``.
        layout: their channels.
        frames: frames of the edges.
        index: node of each edge, ``(E,)``.
        num_nodes: number of nodes.

    Returns:
        Fields ``(num_nodes, 2l+1, mul)`` for every irrep of the layout.
    """
    return list(_to_nodes(blocks, layout, frames, (index,), num_nodes))


def _scaled(blocks: Sequence[Tensor], factor: Tensor, starts: list[int]) -> tuple[Tensor, ...]:
    return tuple(block * factor[:, None, start:] for block, start in zip(blocks, starts, strict=True))


def _dot(first: FrameBlocks, second: FrameBlocks, starts: list[int]) -> Tensor:
    """:func:`channel_dot` without writing into anything."""
    total, *others = ((a * b).sum(1) for a, b in zip(first, second, strict=True))
    for part, start in zip(others, starts[1:], strict=True):
        total = total + nn.functional.pad(part, (start - starts[0], 0))
    return total


def _to_edges(
    fields: Sequence[Tensor], layout: FrameLayout, frames: EdgeFrames, indices: tuple[Tensor, ...]
) -> Sequence[Tensor]:
    if frames.requires_grad or is_traced():
        return _gather(fields, layout, frames, indices)
    blocks: Sequence[Tensor] = _ToEdges.apply(layout, frames, indices, *fields)
    return blocks


def _to_nodes(
    blocks: Sequence[Tensor], layout: FrameLayout, frames: EdgeFrames, indices: tuple[Tensor, ...], num_nodes: int
) -> Sequence[Tensor]:
    if frames.requires_grad or is_traced():
        return _sum(blocks, layout, frames, indices, num_nodes)
    fields: Sequence[Tensor] = _ToNodes.apply(layout, frames, indices, num_nodes, *blocks)
    return fields


def _gather(
    fields: Sequence[Tensor], layout: FrameLayout, frames: EdgeFrames, indices: tuple[Tensor, ...]
) -> FrameBlocks:
    gathered = [[field.index_select(0, index) for index in indices] for field in fields]
    joined = [parts[0] if len(parts) == 1 else torch.cat(parts, dim=2) for parts in gathered]
    return layout.from_fields(layout.rotate_fields(joined, frames))


def _sum(
    blocks: Sequence[Tensor], layout: FrameLayout, frames: EdgeFrames, indices: tuple[Tensor, ...], num_nodes: int
) -> list[Tensor]:
    totals = []
    for field in layout.rotate_fields(layout.to_fields(list(blocks)), frames, inverse=True):
        parts = field.chunk(len(indices), dim=2)
        total = field.new_zeros(num_nodes, *parts[0].shape[1:])
        for index, part in zip(indices, parts, strict=True):
            total = total.index_add_(0, index, part.contiguous())
        totals.append(total)
    return totals


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, factor: Tensor, starts: list[int], *blocks: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(factor, *blocks)
        ctx.save_for_forward(factor, *blocks)
        ctx.starts = starts
        return _scaled(blocks, factor, starts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        factor, *blocks = ctx.saved_tensors
        of_factor = None
        if ctx.needs_input_grad[0]:
            of_factor = channel_dot(list(gradients), blocks, ctx.starts)
            if len(factor) == 1 and len(of_factor) != 1:
                of_factor = of_factor.sum(0, keepdim=True)
        of_blocks: list[Tensor | None] = [None] * len(blocks)
        if any(ctx.needs_input_grad[2:]):
            of_blocks = [*scale_channels(list(gradients), factor, ctx.starts)]
        return of_factor, None, *of_blocks

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        (factor, *blocks), (of_factor, _, *of_blocks) = ctx.saved_tensors, tangents
        factor_tangent = torch.zeros_like(factor) if of_factor is None else of_factor
        block_tangents = [torch.zeros_like(x) if t is None else t for x, t in zip(blocks, of_blocks, strict=True)]
        return tuple(
            tangent * factor[:, None, start:] + block * factor_tangent[:, None, start:]
            for block, tangent, start in zip(blocks, block_tangents, ctx.starts, strict=True)
        )


class _Dot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, starts: list[int], count: int, *blocks: Tensor) -> Tensor:
        ctx.save_for_backward(*blocks)
        ctx.save_for_forward(*blocks)
        ctx.starts, ctx.count = starts, count
        total: Tensor | None = None
        for first, second, start in zip(blocks[:count], blocks[count:], starts, strict=True):
            product = first * second
            part = product.squeeze(1) if product.shape[1] == 1 else product[:, 0].add_(product[:, 1])
            if total is None:
                total = part
            else:
                total[:, start - starts[0] :].add_(part)
        assert total is not None
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        first, second = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        of_first = scale_channels(list(second), gradients[0], ctx.starts)
        of_second = scale_channels(list(first), gradients[0], ctx.starts)
        return None, None, *of_first, *of_second

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        blocks, n = list(ctx.saved_tensors), ctx.count
        changed = [torch.zeros_like(x) if t is None else t for x, t in zip(blocks, tangents[2:], strict=True)]
        return channel_dot(changed[:n], blocks[n:], ctx.starts) + channel_dot(blocks[:n], changed[n:], ctx.starts)


class _Squares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, starts: list[int], *blocks: Tensor) -> Tensor:
        ctx.save_for_backward(*blocks)
        ctx.save_for_forward(*blocks)
        ctx.starts = starts
        return channel_dot(list(blocks), list(blocks), starts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, *scale_channels(list(ctx.saved_tensors), 2 * gradients[0], ctx.starts)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        blocks = list(ctx.saved_tensors)
        changed = [torch.zeros_like(x) if t is None else t for x, t in zip(blocks, tangents[1:], strict=True)]
        return 2 * channel_dot(blocks, changed, ctx.starts)


class _ToEdges(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layout: FrameLayout, frames: EdgeFrames, indices: tuple[Tensor, ...], *fields: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.layout, ctx.frames, ctx.indices, ctx.num_nodes = layout, frames, indices, len(fields[0])
        return tuple(_gather(fields, layout, frames, indices))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, None, None, *_to_nodes(gradients, ctx.layout, ctx.frames, ctx.indices, ctx.num_nodes)


class _ToNodes(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        layout: FrameLayout,
        frames: EdgeFrames,
        indices: tuple[Tensor, ...],
        num_nodes: int,
        *blocks: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.layout, ctx.frames, ctx.indices = layout, frames, indices
        return tuple(_sum(blocks, layout, frames, indices, num_nodes))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, None, None, None, *_to_edges(gradients, ctx.layout, ctx.frames, ctx.indices)
