"""Graphs with declared fields: batches, neighbour lists, tables of pairs, lists and undeclared vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.data import Data

from tracegrad.errors import VerificationError
from verify import DataAdapter, Field, Report, verify_model

FIELDS = {"pos": Field("cartesian_points"), "charge": Field("1x0e")}
ENERGY = {"energy": Field("1x0e", "graph")}
VECTOR = {"v": Field("1x1o")}


def _graph(nodes: int = 5, **more: Any) -> Data:
    generator = torch.Generator().manual_seed(2)
    index = torch.cartesian_prod(torch.arange(nodes), torch.arange(nodes)).T
    return Data(
        pos=torch.randn(nodes, 3, generator=generator, dtype=torch.float64),
        charge=torch.rand(nodes, 1, generator=generator, dtype=torch.float64) + 0.2,
        edge_index=index[:, index[0] != index[1]],
        **more,
    )


def _verify(model: Callable[[Data], object], graph: Data, adapter: DataAdapter, *checks: str) -> Report:
    return verify_model(model, graph, adapter=adapter, trials=4, search=2, diagnose=False, checks=checks or None)


def _batch(graph: Data) -> Tensor:
    return graph.batch if "batch" in graph else torch.zeros(len(graph.pos), dtype=torch.long)


def _energy(graph: Data, charge: Tensor | None = None) -> Tensor:
    """One energy per graph from all of its edges."""
    charge, batch = graph.charge if charge is None else charge, _batch(graph)
    i, j = graph.edge_index
    vectors = graph.pos[j] - graph.pos[i]
    terms = charge[i] * charge[j] * torch.exp(-vectors.square().sum(1, keepdim=True))
    return terms.new_zeros(int(batch.max()) + 1, 1).index_add(0, batch[i], terms)


def _vector(graph: Data) -> Tensor:
    """One vector per node from its edges."""
    i, j = graph.edge_index
    vectors = graph.pos[j] - graph.pos[i]
    weight = graph.charge[j] * torch.exp(-vectors.square().sum(1, keepdim=True))
    return torch.zeros_like(graph.pos).index_add(0, i, weight * vectors)


# --- batches ---


def _per_mean_size(graph: Data) -> Tensor:
    energy = _energy(graph)
    return energy * len(energy) / len(graph.pos)


def _reshaped(graph: Data) -> Tensor:
    points = graph.pos.reshape(int(_batch(graph).max()) + 1, -1, 3)
    return torch.exp(-torch.cdist(points, points).square()).sum((1, 2))[:, None]


def _at_most_one(charge: Tensor) -> Tensor:
    if float(charge.max()) > 1:
        raise ValueError("expected occupations")
    return 1 + charge


MIXES: dict[str, Callable[[Data], Tensor]] = {
    "mean of a feature over the batch": lambda graph: _energy(graph, graph.charge - graph.charge.mean()),
    "mean number of atoms": _per_mean_size,
    "graphs taken to be of one size": _reshaped,
}


@pytest.mark.parametrize("name", MIXES)
def test_model_that_mixes_the_graphs_of_a_batch_is_rejected(name: str) -> None:
    adapter = DataAdapter(FIELDS, ENERGY)
    report = _verify(MIXES[name], _graph(), adapter)
    assert [check.name for check in report.failures] == ["batch_independence"], report.to_text()
    assert _verify(_energy, _graph(), adapter, "batch_independence").passed


def test_largest_feature_of_a_batch_is_found_at_nodes() -> None:
    adapter = DataAdapter(FIELDS, VECTOR)
    report = _verify(lambda graph: _vector(graph) / graph.charge.max(), _graph(), adapter, "batch_independence")
    assert not report.passed
    assert _verify(_vector, _graph(), adapter, "batch_independence").passed


def test_refusal_of_a_smaller_graph_is_said_and_the_batch_of_equal_ones_judged() -> None:
    def fixed_size(graph: Data) -> Tensor:
        if len(graph.pos) % 5:
            raise ValueError("expected five atoms per graph")
        return _energy(graph)

    check = _verify(fixed_size, _graph(), DataAdapter(FIELDS, ENERGY), "batch_independence").check("batch_independence")
    assert check.passed
    assert "expected five atoms" in check.message
    mixed = _verify(
        lambda graph: fixed_size(graph) - graph.charge.mean(),
        _graph(),
        DataAdapter(FIELDS, ENERGY),
        "batch_independence",
    )
    assert not mixed.passed


@pytest.mark.parametrize("domain", [lambda q: torch.sqrt(1 - q**2), lambda q: torch.log(1 - q), _at_most_one])
def test_features_that_the_model_cannot_take_larger_stay_as_they_are(domain: Callable[[Tensor], Tensor]) -> None:
    graph = _graph()
    graph.charge = torch.tensor([[0.7], [0.8], [0.9], [0.7], [0.8]], dtype=torch.float64)
    report = _verify(lambda graph: _vector(graph) * domain(graph.charge), graph, DataAdapter(FIELDS, VECTOR))
    check = report.check("batch_independence")
    assert check.passed, report.to_text()
    assert "with the given features" in check.message
    mixed = _verify(
        lambda graph: _vector(graph) * domain(graph.charge) * graph.pos.square().sum(),
        graph,
        DataAdapter(FIELDS, VECTOR),
        "batch_independence",
    )
    assert not mixed.passed


# --- neighbour lists ---


def _first_neighbours(graph: Data) -> Data:
    """Edges to the first two of all near atoms, in their order: which they are depends on the numbering."""
    near = torch.cdist(graph.pos, graph.pos) < 5.0
    pairs = [(i, j) for i in range(len(near)) for j in [j for j in range(len(near)) if j != i and near[i, j]][:2]]
    graph.edge_index = torch.tensor(pairs).T
    return graph


def _nearest_neighbours(graph: Data) -> Data:
    """A table of the two nearest atoms of each."""
    distances = torch.cdist(graph.pos, graph.pos).fill_diagonal_(torch.inf)
    graph.nearest_index = distances.argsort(1)[:, :2]
    return graph


def test_neighbours_are_searched_again_after_a_renumbering() -> None:
    def from_table(graph: Data) -> Tensor:
        vectors = graph.pos[graph.nearest_index] - graph.pos[:, None]
        return (graph.charge[graph.nearest_index] * vectors).sum(1)

    truncated = DataAdapter(FIELDS, ENERGY, rebuild=_first_neighbours)
    assert not _verify(_energy, _first_neighbours(_graph()), truncated, "node_permutation").passed
    table = DataAdapter(FIELDS, VECTOR, rebuild=_nearest_neighbours)
    report = _verify(from_table, _nearest_neighbours(_graph()), table, "node_permutation", "rotation")
    assert report.passed, report.to_text()


@pytest.mark.parametrize("broken", [True, False])
def test_directions_are_those_between_points_where_the_model_makes_its_edges(broken: bool) -> None:
    def model(graph: Data) -> Tensor:
        vectors, batch = graph.pos[None] - graph.pos[:, None], _batch(graph)
        same = (batch[None] == batch[:, None])[..., None]
        unit = torch.nn.functional.normalize(vectors, dim=-1)
        sign = torch.where(unit[..., 1:2].abs() > 0.9999, -1.0, 1.0) if broken else 1.0
        return (same * sign * vectors * torch.exp(-vectors.square().sum(-1, keepdim=True))).sum(1)

    graph = Data(pos=_graph().pos, charge=_graph().charge)
    report = _verify(model, graph, DataAdapter(FIELDS, VECTOR), "pole", "search", "node_permutation")
    assert report.passed is not broken, report.to_text()
    assert not report.skipped


def test_tensors_of_edges_that_a_search_reorders_are_not_renumbered() -> None:
    def search(graph: Data) -> Data:
        distances = torch.cdist(graph.pos.detach(), graph.pos.detach())
        graph.edge_index = ((distances < 4.0) & ~torch.eye(len(distances), dtype=torch.bool)).nonzero().T
        return graph

    def bonded(graph: Data) -> Tensor:
        i, j = graph.edge_index
        return torch.zeros_like(graph.pos).index_add(0, i, graph.bond * (graph.pos[j] - graph.pos[i]))

    graph = search(_graph())
    graph.bond = torch.rand(graph.num_edges, 1, dtype=torch.float64)
    adapter = DataAdapter({**FIELDS, "bond": Field("1x0e", "edge")}, VECTOR, rebuild=search)
    report = _verify(bonded, graph, adapter, "node_permutation", "rotation")
    assert "rebuild=" in report.skipped["node_permutation"]
    assert report.passed, report.to_text()
    assert not _verify(
        _vector, search(_graph()), DataAdapter(FIELDS, VECTOR, rebuild=search), "node_permutation"
    ).skipped


def test_fragment_is_not_put_into_a_crystal_whose_neighbours_are_searched_again() -> None:
    cell = 3.0 * torch.eye(3, dtype=torch.float64)[None]
    adapter = DataAdapter(FIELDS, VECTOR, cell="cell", rebuild=lambda graph: graph)
    report = _verify(_vector, _graph(cell=cell), adapter, "far_fragment", "rotation")
    assert "far_fragment" in report.skipped
    report = _verify(_vector, _graph(cell=cell), DataAdapter(FIELDS, VECTOR, cell="cell"), "far_fragment")
    assert report.check("far_fragment").passed


# --- what a graph may hold ---


def test_energies_of_atoms_have_forces_too() -> None:
    def model(graph: Data, factor: float = 1.0) -> tuple[Tensor, Tensor]:
        points = graph.pos if graph.pos.requires_grad else graph.pos.requires_grad_()
        i, j = graph.edge_index
        terms = graph.charge[i] * graph.charge[j] * torch.exp(-(points[j] - points[i]).square().sum(1, keepdim=True))
        energy = terms.new_zeros(len(points), 1).index_add(0, i, terms)
        return energy, -factor * torch.autograd.grad(energy.sum(), points, create_graph=True)[0]

    adapter = DataAdapter(FIELDS, {"energy": Field("1x0e", "node"), "forces": Field("1x1o")})
    assert _verify(model, _graph(), adapter, "force_consistency").passed
    assert not _verify(lambda graph: model(graph, 0.9), _graph(), adapter, "force_consistency").passed


def test_list_with_an_item_per_node_moves_with_the_nodes() -> None:
    def by_symbol(graph: Data) -> Tensor:
        weight = torch.tensor([[1.0 if symbol == "C" else 2.0] for symbol in graph.symbols]).to(graph.pos)
        return weight * _vector(graph)

    graph = _graph(symbols=["C", "H", "H", "O", "N"], ragged=[[1], [0, 2], [], [4], [3]])
    report = _verify(by_symbol, graph, DataAdapter(FIELDS, VECTOR), "node_permutation")
    assert report.check("node_permutation").passed, report.to_text()


def test_table_of_pairs_is_not_renumbered_by_rows_alone() -> None:
    bonds = torch.ones(5, 5, dtype=torch.float64).triu(1)
    report = _verify(
        lambda graph: _vector(graph) * graph.bonds.sum(),
        _graph(bonds=bonds),
        DataAdapter(FIELDS, VECTOR),
        "node_permutation",
    )
    assert "pairs" in report.skipped["node_permutation"]


def test_graph_may_hold_sparse_tensors_and_points_that_require_gradients() -> None:
    graph = _graph(adjacency=torch.eye(5).to_sparse(), bonds=torch.eye(5).to_sparse(), gap=float("nan"))
    graph.pos.requires_grad_()
    report = _verify(_vector, graph, DataAdapter(FIELDS, VECTOR), "input_mutation", "rotation")
    assert report.passed, report.to_text()


def test_vectors_among_the_features_of_edges_and_at_nodes_are_refused_unless_declared() -> None:
    graph = _graph()
    vectors = graph.pos[graph.edge_index[1]] - graph.pos[graph.edge_index[0]]
    adapter = DataAdapter(FIELDS, ENERGY)
    graph.edge_attr = torch.cat([vectors.norm(dim=1, keepdim=True), vectors], dim=1)
    with pytest.raises(VerificationError, match=r"edge_attr.*three numbers per edge"):
        _verify(_energy, graph, adapter)
    harmonics = _graph(edge_attr=torch.nn.functional.normalize(vectors)[:, [1, 2, 0]].repeat(1, 2))
    with pytest.raises(VerificationError, match=r"edge_attr.*three numbers per edge"):
        _verify(_energy, harmonics, adapter)
    with pytest.raises(VerificationError, match=r"velocity.*three numbers per node"):
        _verify(_energy, _graph(velocity=torch.randn(5, 3)), adapter)
    kinds = _graph(kinds=torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0, 1]], edge_attr=torch.rand(20, 4))
    assert _verify(_energy, kinds, adapter, "rotation").passed
    said = DataAdapter({**FIELDS, "force": Field(None), "edge_attr": Field(None, "edge")}, ENERGY)
    labelled = _graph(force=torch.randn(5, 3), edge_attr=graph.edge_attr)
    assert _verify(_energy, labelled, said, "rotation", "node_permutation", "edge_permutation").passed


def test_kinds_along_an_axis_are_no_directions() -> None:
    linear = Data(
        pos=torch.tensor([[0.0, 0, 0], [0, 0, 1.2], [0, 0, 2.3]], dtype=torch.float64),
        charge=torch.rand(3, 1, dtype=torch.float64),
        edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]),
        edge_attr=torch.eye(4, dtype=torch.float64),
    )
    assert _verify(_energy, linear, DataAdapter(FIELDS, ENERGY), "rotation").passed


def test_rows_that_count_nodes_as_well_as_edges_must_be_declared() -> None:
    ring = torch.stack([torch.arange(5), (torch.arange(5) + 1) % 5])
    graph = _graph(bond=torch.rand(5, 1, dtype=torch.float64))
    graph.edge_index = ring

    def model(graph: Data) -> Tensor:
        i, j = graph.edge_index
        return torch.zeros_like(graph.pos).index_add(0, i, graph.bond * (graph.pos[j] - graph.pos[i]))

    with pytest.raises(VerificationError, match=r"bond.*as many as there are edges"):
        _verify(model, graph, DataAdapter(FIELDS, VECTOR))
    for irreps in ("1x0e", None):
        declared = DataAdapter({**FIELDS, "bond": Field(irreps, "edge")}, VECTOR)
        assert _verify(model, graph, declared, "node_permutation", "edge_permutation").passed
