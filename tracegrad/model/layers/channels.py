"""Operations on frame blocks, channel by channel, and the way between nodes and edges; each is the adjoint of another.

Written as autograd functions, because the derivative of one is another of them: that saves the zero-filled and summed
temporaries of slices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tracegrad.so3.frames import EdgeFrames, FrameBlocks, FrameLayout


def scale_channels(blocks: FrameBlocks, factor: Tensor, starts: list[int]) -> FrameBlocks:
    """``blocks[m] * factor[:, starts[m]:]``: one factor per channel.

    Args:
        blocks: ``(rows, 1 or 2, K_m)``.
        factor: ``(rows, K)`` or ``(1, K)``.
        starts: first channel of every block.
    """
    return list(_Scale.apply(factor, starts, *blocks))


def channel_dot(first: FrameBlocks, second: FrameBlocks, starts: list[int]) -> Tensor:
    """Sum over components of the products of equal channels, ``(rows, K)``; ``K`` is the width of the first block."""
    result: Tensor = _Dot.apply(starts, len(first), *first, *second)
    return result


def to_edges(fields: list[Tensor], layout: FrameLayout, frames: EdgeFrames, indices: tuple[Tensor, ...]) -> FrameBlocks:
    """Features of nodes in the frames of the edges.

    Args:
        fields: ``(N, 2l+1, mul)`` for every irrep of the layout, global frame.
        layout: their channels.
        frames: frames of the edges.
        indices: for every source, the node of each edge, ``(E,)``.

    Returns:
        Blocks ``(E, 1 or 2, sources * K_m)``, the channels of the first source before those of the second.
    """
    if frames.requires_grad:
        gathered = [[field.index_select(0, index) for field in fields] for index in indices]
        return layout.join_fields([layout.rotate_fields(source, frames) for source in gathered])
    return list(_ToEdges.apply(layout, frames, indices, *fields))


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
    if frames.requires_grad:
        fields = layout.rotate_fields(layout.to_fields(blocks), frames, inverse=True)
        return [field.new_zeros(num_nodes, *field.shape[1:]).index_add(0, index, field) for field in fields]
    return list(_ToNodes.apply(layout, frames, (index,), num_nodes, *blocks))


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, factor: Tensor, starts: list[int], *blocks: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(factor, *blocks)
        ctx.starts = starts
        return tuple(block * factor[:, None, start:] for block, start in zip(blocks, starts, strict=True))

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


class _Dot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, starts: list[int], count: int, *blocks: Tensor) -> Tensor:
        ctx.save_for_backward(*blocks)
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


class _ToEdges(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layout: FrameLayout, frames: EdgeFrames, indices: tuple[Tensor, ...], *fields: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.layout, ctx.frames, ctx.indices, ctx.num_nodes = layout, frames, indices, len(fields[0])
        gathered = [[field.index_select(0, index) for field in fields] for index in indices]
        return tuple(layout.join_fields([layout.rotate_fields(source, frames) for source in gathered]))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, None, None, *_ToNodes.apply(ctx.layout, ctx.frames, ctx.indices, ctx.num_nodes, *gradients)


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
        totals: list[Tensor] = []
        for index, source in zip(indices, layout.part_fields(list(blocks), len(indices)), strict=True):
            turned = layout.rotate_fields(source, frames, inverse=True)
            if not totals:
                totals = [field.new_zeros(num_nodes, *field.shape[1:]) for field in turned]
            for total, field in zip(totals, turned, strict=True):
                total.index_add_(0, index, field.contiguous())
        return tuple(totals)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, None, None, None, *_ToEdges.apply(ctx.layout, ctx.frames, ctx.indices, *gradients)
