r"""From the numbers of the network to eV: a scale and a two-centre reference, both functions of the distance.

.. math:: t_{ij} = t^{\mathrm{ref}}_{ij}(r) + \sigma_{ij}(r)\, y_{ij}

The reference is the part of the Hamiltonian that the two elements and their distance determine: in the frame of the
bond only ``m = m'`` survives, that is the components ``M = 0`` of the coupled irreps that are even under the reflection
through the bond. Each is a cubic spline of the distance, fitted to the training set by least squares; a small penalty
on the differences of neighbouring coefficients holds it between the shells of training distances. On-site scalars are
their mean per element. It is exactly equivariant and Hermitian and vanishes at the cutoff with two derivatives.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from tracegrad.errors import DataError
from tracegrad.graph.layout import TargetLayout
from tracegrad.model.layers.constant import Constant

NUM_SPLINES = 32
NUM_SHAPES = 4  # powers of the distance in the logarithm of the scale
NUM_BINS = 16
SMALLEST_SCALE = 1e-6  # eV
RIDGE = 1e-10  # per pair of atoms
# Penalty on the squared differences of neighbouring coefficients: of the order of the residual's variance over theirs,
# and the same for any number of pairs, so that it decides only where there are few or none.
SMOOTHNESS = 3e-3
FARTHEST = 1e4  # Å; no pair is as long


class OutputTransform(nn.Module):
    """Scale and reference of the outputs; without :meth:`fit` the identity.

    Args:
        targets: what is predicted.
        reference: add the two-centre reference.
        scaling: multiply every irrep by its residual's root mean square, a smooth function of the distance.
        reference_only: leave the network's part out.
    """

    bounds: Tensor
    pair_bounds: Tensor
    loop_mean: Tensor
    pair_splines: Tensor
    loop_scale: Tensor
    pair_shapes: Tensor

    def __init__(
        self, targets: TargetLayout, reference: bool = False, scaling: bool = False, reference_only: bool = False
    ) -> None:
        super().__init__()
        self.targets, self.reference, self.scaling = targets, reference, scaling
        self.reference_only = reference_only
        frame, species = targets.frame, targets.num_species
        self.num_pole = frame.num_channels
        natural = torch.tensor([0.0 if odd else 1.0 for _, odd, _ in frame.channels], dtype=torch.float64)
        scalar = torch.tensor([1.0 if l == 0 and not odd else 0.0 for l, odd, _ in frame.channels], dtype=torch.float64)
        self.pole_mask, self.scalar_mask = Constant(natural), Constant(scalar)
        self.component_channel = Constant(frame.component_channel)
        self.register_buffer("bounds", torch.tensor([0.0, 1.0], dtype=torch.float64))
        self.register_buffer("pair_bounds", torch.tensor([[0.0, FARTHEST]], dtype=torch.float64).repeat(species**2, 1))
        self.register_buffer("loop_mean", torch.zeros(species, self.num_pole))
        self.register_buffer("pair_splines", torch.zeros(species**2, NUM_SPLINES, self.num_pole))
        self.register_buffer("loop_scale", torch.ones(species, self.num_pole))
        self.register_buffer("pair_shapes", torch.zeros(species**2, NUM_SHAPES, self.num_pole))

    def forward(self, flat: Tensor, graph: Data) -> Tensor:
        """Frame vectors in eV, ``(rows, D)``, from the outputs of the network."""
        if self.reference_only:
            flat = flat * 0
        if self.scaling:
            flat = flat * self.scales(graph, len(flat)).to(flat)[:, self.component_channel.like(flat)]
        if self.reference:
            pole = self.reference_pole(graph, len(flat)).to(flat)
            flat = torch.cat([flat[:, : self.num_pole] + pole, flat[:, self.num_pole :]], dim=1)
        return flat

    def reference_pole(self, graph: Data, rows: int) -> Tensor:
        """Two-centre reference of the components ``m = 0``, ``(rows, K_0)``, eV; all others are zero."""
        low = self.pair_bounds[graph.edge_type[graph.num_nodes : rows], 0]
        distances = _distances(graph, rows).double().clamp(min=low)  # shorter than any pair of these elements
        pairs = self._of_pairs(self.pair_splines, self._splines(distances), graph, rows)
        return torch.cat([self.loop_mean[graph.species], pairs])

    def scales(self, graph: Data, rows: int) -> Tensor:
        """Scale of every channel, ``(rows, K_0)``, eV."""
        low, high = self.pair_bounds[graph.edge_type[graph.num_nodes : rows]].unbind(1)
        distances = _distances(graph, rows).double().clamp(low, high)  # beyond them the polynomial means nothing
        pairs = self._of_pairs(self.pair_shapes, self._shapes(distances), graph, rows)
        return torch.cat([self.loop_scale[graph.species], torch.exp(pairs)])

    def _of_pairs(self, coefficients: Tensor, functions: Tensor, graph: Data, rows: int) -> Tensor:
        """Functions of the distance times the coefficients of each pair's elements, ``(rows - N, K_0)``.

        One product with the functions of every pair in the columns of its elements: no number of the graph decides
        what is computed, so that a step can be recorded (:mod:`tracegrad.training.recorded`).
        """
        types = graph.edge_type[graph.num_nodes : rows, None]
        chosen = types == torch.arange(len(coefficients), device=types.device)
        spread = chosen[:, :, None] * functions.to(coefficients)[:, None, :]
        pairs: Tensor = spread.flatten(1) @ coefficients.flatten(0, 1)
        return pairs

    def fit(self, graphs: Iterable[Data]) -> None:
        """Fit reference and scales to the targets of the training set.

        Args:
            graphs: training graphs with targets; never validation or test structures.

        Raises:
            DataError: there is no pair of atoms.
        """
        if not (self.reference or self.scaling):
            return
        loops, pairs = _collect(list(graphs), self.targets)
        if not pairs:
            raise DataError(
                "expected pairs of atoms to fit the two-centre reference and the scales to, found none in the training "
                "structures; set model.reference to false and model.scaling to none"
            )
        distances = torch.cat([r for r, _ in pairs.values()])
        self.bounds.copy_(torch.stack([distances.min(), distances.max() * (1 + 1e-6)]))
        for species, target in loops.items():
            mean = target[:, : self.num_pole].mean(0) * self.scalar_mask.like(target)
            if self.reference:
                self.loop_mean[species] = mean.to(self.loop_mean)
            self.loop_scale[species] = self._channel_rms(self._residual(target, mean)).to(self.loop_scale)
        for pair_type, (r, target) in pairs.items():
            self.pair_bounds[pair_type] = torch.stack([r.min() * (1 - 1e-6), r.max() * (1 + 1e-6)]).to(self.pair_bounds)
            splines = self._splines(r)
            coefficients = _fit_splines(splines, target[:, : self.num_pole] * self.pole_mask.like(target))
            if self.reference:
                self.pair_splines[pair_type] = coefficients.to(self.pair_splines)
            residual = self._residual(target, splines @ coefficients)
            self.pair_shapes[pair_type] = self._fit_shapes(r, residual).to(self.pair_shapes)
        self._symmetrise()

    def _symmetrise(self) -> None:
        """Make the fits of an atom, and of both names of a pair, ``(i, j)`` and ``(j, i)``, exactly Hermitian.

        The bins of :meth:`_fit_shapes` may part the two directions of a pair, which have the same distance; the
        on-site blocks of a file are Hermitian to 1e-6 eV only.
        """
        species, device = self.targets.num_species, self.pair_shapes.device
        reverse = torch.arange(species**2, device=device).view(species, species).T.flatten()
        index, sign = (part[: self.num_pole].to(device) for part in self.targets.frame_partner)
        even = torch.ones_like(sign)
        for fitted, signs in ((self.pair_shapes, even), (self.pair_splines, sign)):
            fitted.copy_(0.5 * (fitted + fitted[reverse][:, :, index] * signs.to(fitted)))
        for fitted, signs in ((self.loop_scale, even), (self.loop_mean, sign)):  # scalars, which no reversal turns
            fitted.copy_(0.5 * (fitted + fitted[:, index] * signs.to(fitted)))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Weights of before there were bounds for each pair of elements have none."""
        state_dict.setdefault(prefix + "pair_bounds", self.pair_bounds)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _residual(self, target: Tensor, pole: Tensor) -> Tensor:
        """Target minus the reference, where there is one."""
        if not self.reference:
            return target
        return torch.cat([target[:, : self.num_pole] - pole, target[:, self.num_pole :]], dim=1)

    def _channel_rms(self, residual: Tensor) -> Tensor:
        """Root mean square of every channel over rows and components, ``(K_0,)``."""
        return self._channel_squares(residual).mean(0).sqrt().clamp(min=SMALLEST_SCALE)

    def _channel_squares(self, residual: Tensor) -> Tensor:
        channel = self.component_channel.like(residual)
        squares = residual.new_zeros(len(residual), self.num_pole).index_add(1, channel, residual.square())
        return squares / torch.bincount(channel, minlength=self.num_pole)

    def _fit_shapes(self, r: Tensor, residual: Tensor) -> Tensor:
        """Polynomial in the distance of ``log rms``, from bins of equal population, ``(NUM_SHAPES, K_0)``."""
        order = torch.argsort(r)
        squares, bins = self._channel_squares(residual)[order], torch.tensor_split(torch.arange(len(r)), NUM_BINS)
        filled = [b for b in bins if len(b)]
        centres = torch.stack([r[order][b].mean() for b in filled])
        logs = torch.stack([0.5 * squares[b].mean(0).clamp(min=SMALLEST_SCALE**2).log() for b in filled])
        shapes = self._shapes(centres)
        gram = shapes.T @ shapes + 1e-6 * len(filled) * torch.eye(NUM_SHAPES, dtype=shapes.dtype)
        solution: Tensor = torch.linalg.solve(gram, shapes.T @ logs)
        return solution

    def _splines(self, r: Tensor) -> Tensor:
        """Cubic B-splines on an even grid; all vanish at the cutoff with two derivatives, ``(rows, NUM_SPLINES)``."""
        low, high = self.bounds.double()
        step = (high - low) / NUM_SPLINES
        centres: Tensor = low + step * torch.arange(-1, NUM_SPLINES - 1, dtype=torch.float64, device=r.device)
        x = ((r.double().clamp(min=low)[:, None] - centres) / step).abs()
        near, far = (4 - 6 * x**2 + 3 * x**3) / 6, (2 - x).clamp(min=0) ** 3 / 6
        return torch.where(x < 1, near, far)

    def _shapes(self, r: Tensor) -> Tensor:
        """Powers of the distance scaled to [-1, 1], ``(rows, NUM_SHAPES)``."""
        low, high = self.bounds.double()
        x: Tensor = (2 * (r.double() - low) / (high - low) - 1).clamp(-1, 1)
        powers: Tensor = x[:, None] ** torch.arange(NUM_SHAPES, dtype=torch.float64, device=r.device)
        return powers


def _distances(graph: Data, rows: int) -> Tensor:
    distances: Tensor = graph.edge_vectors[graph.num_nodes : rows].norm(dim=1)
    return distances


def _fit_splines(splines: Tensor, values: Tensor) -> Tensor:
    """Coefficients ``(NUM_SPLINES, K_0)`` of the least squares with the penalties ``RIDGE`` and ``SMOOTHNESS``."""
    identity = torch.eye(NUM_SPLINES, dtype=splines.dtype)
    differences = torch.diff(identity, dim=0)
    penalty = RIDGE * len(splines) * identity + SMOOTHNESS * differences.T @ differences
    coefficients: Tensor = torch.linalg.solve(splines.T @ splines + penalty, splines.T @ values)
    return coefficients


def _by_type(types: Tensor) -> list[tuple[int, Tensor]]:
    return [(int(t), (types == t).nonzero().squeeze(1)) for t in types.unique()]


def _collect(graphs: list[Data], targets: TargetLayout) -> tuple[dict[int, Tensor], dict[int, tuple[Tensor, Tensor]]]:
    """Targets in float64: of the self-loops by species, of all directed edges with their distances by pair type."""
    loops: dict[int, list[Tensor]] = {}
    pairs: dict[int, list[tuple[Tensor, Tensor]]] = {}
    index, sign = targets.frame_partner
    for graph in graphs:
        rows = graph.num_nodes + graph.num_pairs
        on_site, forward = graph.target_frame[:rows].cpu().double().split([graph.num_nodes, graph.num_pairs])
        nodes, types = graph.species.cpu(), graph.edge_type[graph.num_nodes :].cpu()
        for species in nodes.unique().tolist():
            loops.setdefault(species, []).append(on_site[nodes == species])
        distances = torch.cat([_distances(graph, rows).cpu().double()] * 2)
        both = torch.cat([forward, forward[:, index] * sign])
        for pair_type, chosen in _by_type(types):
            pairs.setdefault(pair_type, []).append((distances[chosen], both[chosen]))
    joined = {t: (torch.cat([r for r, _ in part]), torch.cat([x for _, x in part])) for t, part in pairs.items()}
    return {s: torch.cat(part) for s, part in loops.items()}, joined
