"""Graphs with declared fields: what is stale, misnamed, written to or of another shape is seen, sound models pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from tracegrad.errors import VerificationError
from verify import DataAdapter, Field, Report, Verdict, verify_model

POINTS = {"pos": Field("cartesian_points"), "charge": Field("1x0e")}
ENERGY = {"energy": Field("1x0e", "total")}


def _graph(nodes: int = 5, pairs: list[tuple[int, int]] | None = None) -> Data:
    generator = torch.Generator().manual_seed(1)
    pairs = [(i, j) for i in range(nodes) for j in range(nodes) if i != j] if pairs is None else pairs
    return Data(
        pos=1.3 * torch.randn(nodes, 3, generator=generator, dtype=torch.float64),
        charge=torch.rand(nodes, 1, generator=generator, dtype=torch.float64) + 0.5,
        edge_index=torch.tensor(pairs).T,
    )


def _vectors(graph: Data) -> Tensor:
    i, j = graph.edge_index
    return graph.pos[j] - graph.pos[i]


def _rebuilt(graph: Data) -> Data:
    graph.edge_vec = _vectors(graph)
    return graph


def _verify(model: nn.Module, graph: Data, adapter: DataAdapter, *checks: str, **options: Any) -> Report:
    settings = {"trials": 4, "search": 4, "diagnose": False, "checks": checks or None, **options}
    return verify_model(model, graph, adapter=adapter, **settings)


class Pairs(nn.Module):
    """Energy of all edges from stored edge vectors; broken: of their x components."""

    def __init__(self, broken: bool = False, name: str = "edge_vec") -> None:
        super().__init__()
        self.broken, self.name = broken, name

    def forward(self, graph: Data) -> Tensor:
        i, j = graph.edge_index
        vectors = graph[self.name][:, :1] if self.broken else graph[self.name]
        return ((graph.charge[i] * graph.charge[j]).squeeze(1) * torch.exp(-vectors.square().sum(1))).sum().reshape(1)


# --- geometry that no rotation reaches ---


@pytest.mark.parametrize("broken", [True, False])
def test_stored_edge_vectors_are_refused_unless_they_are_rebuilt_or_declared(broken: bool) -> None:
    graph = _rebuilt(_graph())
    with pytest.raises(VerificationError, match=r"edge_vec.*rebuild="):
        _verify(Pairs(broken), graph, DataAdapter(POINTS, ENERGY))
    declared = {"edge_vec": Field("1x1o", "edge")}
    for adapter in (DataAdapter(POINTS, ENERGY, rebuild=_rebuilt), DataAdapter({**POINTS, **declared}, ENERGY)):
        report = _verify(Pairs(broken), graph, adapter, "rotation", "inversion", "vacuity")
        assert report.verdict is (Verdict.STRUCTURAL if broken else Verdict.PASS), report.to_text()


def test_what_is_rebuilt_has_the_precision_of_the_run() -> None:
    graph = _graph().apply(lambda x: x.float() if x.is_floating_point() else x)
    report = _verify(Pairs(), _rebuilt(graph), DataAdapter(POINTS, ENERGY, rebuild=_rebuilt), "rotation")
    assert report.passed, report.to_text()


def test_model_that_no_rotation_reaches_is_vacuous() -> None:
    class Remembers(Pairs):
        def forward(self, graph: Data) -> Tensor:
            if not hasattr(self, "kept"):
                self.kept = _vectors(graph)
            return super().forward(graph.clone().update({"edge_vec": self.kept}))

    class Computes(Pairs):
        def forward(self, graph: Data) -> Tensor:
            return super().forward(_rebuilt(graph))

    adapter = DataAdapter(POINTS, ENERGY)
    report = _verify(Remembers(broken=True), _graph(), adapter, "rotation", "vacuity")
    assert report.check("rotation").passed
    assert report.check("vacuity").verdict is Verdict.VACUOUS
    assert "expected the outputs to depend on pos" in report.check("vacuity").message
    assert _verify(Computes(), _graph(), adapter, "rotation", "vacuity").passed


@pytest.mark.parametrize("forgotten", ["pos", "dipole"])
def test_adapter_that_does_not_move_its_inputs_is_refused(forgotten: str) -> None:
    class Forgets(DataAdapter):
        def transform(self, graph: Data, element: Any) -> Data:
            return super().transform(graph, element).update({forgotten: graph[forgotten]})

    class Sum(nn.Module):
        def forward(self, graph: Data) -> Tensor:
            return (graph.dipole.square().sum() + _vectors(graph).square().sum()).reshape(1)

    graph = _graph()
    graph.dipole = torch.randn(5, 3, dtype=torch.float64)
    fields = {"pos": Field("cartesian_points"), "dipole": Field("1x1o")}
    with pytest.raises(VerificationError, match=f"transform does not move {forgotten}"):
        _verify(Sum(), graph, Forgets(fields, ENERGY))
    assert _verify(Sum(), graph, DataAdapter(fields, ENERGY), "rotation", "vacuity").passed


# --- levels ---


class Shifted(nn.Module):
    """Forces along the edges of a ring, every edge with a shift of its own."""

    def forward(self, graph: Data) -> Tensor:
        vectors = _vectors(graph) + graph.shifts
        weight = torch.exp(-vectors.square().sum(1, keepdim=True))
        return torch.zeros_like(graph.pos).index_add(0, graph.edge_index[0], weight * vectors) * graph.charge


@pytest.mark.parametrize("nodes", [4, 5])
def test_fields_of_edges_stay_with_their_edges_where_there_are_as_many_edges_as_nodes(nodes: int) -> None:
    graph = _graph(nodes, [(0, 1), (1, 2), (2, 3), (3, 0)])
    graph.shifts = torch.randn(4, 3, dtype=torch.float64)
    outputs = {"forces": Field("1x1o")}
    declared = DataAdapter({**POINTS, "shifts": Field("1x1o", "edge")}, outputs)
    checks = ("node_permutation", "edge_permutation", "far_fragment", "search")
    assert _verify(Shifted(), graph, declared, *checks, search=0).passed
    if nodes == 4:  # declared as a field of nodes, they go with the nodes
        misled = DataAdapter({**POINTS, "shifts": Field("1x1o", "node")}, outputs)
        assert not _verify(Shifted(), graph, misled, "node_permutation").passed


def test_cell_of_three_atoms_is_not_taken_for_a_field_of_nodes() -> None:
    class Periodic(nn.Module):
        def forward(self, graph: Data) -> Tensor:
            vectors = _vectors(graph) + graph.shift.to(graph.pos) @ graph.cell
            weight = torch.exp(-vectors.square().sum(1, keepdim=True))
            return torch.zeros_like(graph.pos).index_add(0, graph.edge_index[0], weight * vectors)

    graph = _graph(3)
    graph.cell = 3 * torch.eye(3, dtype=torch.float64) + 0.1 * torch.randn(3, 3, dtype=torch.float64)
    graph.shift = torch.tensor([[1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, -1], [0, 0, 0]])
    options = {"cell": "cell", "cell_shift": "shift"}
    adapter = DataAdapter({"pos": Field("cartesian_points")}, {"forces": Field("1x1o")}, **options)
    report = _verify(Periodic(), graph, adapter, "rotation", "node_permutation", "supercell")
    assert report.passed, report.to_text()


class Crystal(nn.Module):
    """Energy of a periodic graph whose edges have their lattice shifts in Å, to a power."""

    def __init__(self, power: int = 1) -> None:
        super().__init__()
        self.power = power

    def forward(self, graph: Data) -> Tensor:
        distances = (_vectors(graph) + graph.shifts).square().sum(1)
        return torch.exp(-distances).sum().reshape(1, 1) ** self.power


def _crystal() -> Data:
    cell = torch.tensor([[[2.1, 0.1, 0.0], [0.2, 2.4, 0.0], [0.0, 0.3, 2.6]]], dtype=torch.float64)
    shift = torch.tensor([[1, 0, 0], [-1, 0, 0], [0, 1, 1], [0, -1, -1], [0, 0, 0], [0, 0, 0]])
    edges = torch.tensor([[0, 1], [1, 0], [0, 0], [0, 0], [0, 1], [1, 0]]).T
    pos = torch.tensor([[0.0, 0.1, 0.2], [0.9, 1.1, 0.7]], dtype=torch.float64)
    return Data(pos=pos, cell=cell, edge_index=edges, unit_shifts=shift, shifts=shift.double() @ cell[0])


def _crystal_adapter(level: str) -> DataAdapter:
    fields = {"pos": Field("cartesian_points"), "shifts": Field("1x1o", "edge")}
    return DataAdapter(fields, {"energy": Field("1x0e", level)}, cell="cell", cell_shift="unit_shifts")


def test_lattice_shifts_in_angstrom_are_those_of_the_new_cells() -> None:
    checks = ("rotation", "supercell", "cell_choice")
    report = _verify(Crystal(), _crystal(), _crystal_adapter("total"), *checks)
    assert report.passed, report.to_text()
    assert len(report.checks) == 3
    assert not _verify(Crystal(2), _crystal(), _crystal_adapter("total"), "supercell").passed


def test_supercell_that_compares_no_output_is_skipped_and_says_how_it_would_not_be() -> None:
    report = _verify(Crystal(2), _crystal(), _crystal_adapter("graph"), "supercell", "cell_choice")
    assert "declare extensive ones as 'total'" in report.skipped["supercell"]
    assert report.check("cell_choice").passed


@pytest.mark.parametrize(("skew", "failed"), [(0.0, []), (0.1, ["hermiticity"])])
def test_hamiltonian_of_a_declared_graph_is_tested_for_hermiticity(skew: float, failed: list[str]) -> None:
    def blocks(model: nn.Module, graph: Data) -> dict[tuple[int, ...], Any]:
        overlap = torch.exp(-torch.cdist(graph.pos, graph.pos)).numpy()
        n = len(overlap)
        return {(0, 0, 0, i, j): overlap[i : i + 1, j : j + 1] + skew * (i < j) for i in range(n) for j in range(n)}

    adapter = DataAdapter(POINTS, ENERGY, rebuild=_rebuilt, blocks=blocks)
    report = _verify(Pairs(), _rebuilt(_graph()), adapter, "hermiticity", "rotation")
    assert [c.name for c in report.failures] == failed
    assert len(report.checks) == 2


@pytest.mark.parametrize(("field", "failed"), [(0.0, []), (0.1, ["time_reversal"])])
def test_time_reversal_is_tested_where_the_adapter_claims_it(field: float, failed: list[str]) -> None:
    def blocks(model: nn.Module, graph: Data) -> dict[tuple[int, ...], Any]:
        return {(0, 0, 0, 0, 0): np.diag([1.0 + field, 1.0 - field]).astype(complex)}  # spin up, spin down

    def verified(claimed: bool) -> Report:
        adapter = DataAdapter(POINTS, ENERGY, rebuild=_rebuilt, blocks=blocks, time_reversal=claimed)
        return _verify(Pairs(), _rebuilt(_graph()), adapter, "time_reversal", "rotation")

    assert [c.name for c in verified(True).failures] == failed
    assert "time_reversal = True" in verified(False).skipped["time_reversal"]


def test_unknown_level_names_the_nearest() -> None:
    with pytest.raises(VerificationError, match="Did you mean 'node'"):
        Field("1x1o", "nodes")
    assert Field("1x1o", "total").level == "total"


# --- what models of molecules return, and how ---


class Molecules(nn.Module):
    """Energies of shape (graphs,), and forces that autograd makes inside forward."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, graph: Data) -> dict[str, Tensor]:
        graph.pos.requires_grad_(True)
        i, j = graph.edge_index
        pair = (graph.charge[i] * graph.charge[j]).squeeze(1) * torch.exp(-_vectors(graph).square().sum(1))
        batch = graph.batch if "batch" in graph else torch.zeros(len(graph.pos), dtype=torch.long)
        energy = pair.new_zeros(int(batch.max()) + 1).index_add(0, batch[i], pair)
        (slope,) = torch.autograd.grad(energy.sum(), graph.pos)
        return {"energy": energy, "forces": -self.factor * slope}


@pytest.mark.parametrize("factor", [1.0, 0.9], ids=["sound", "broken"])
def test_forces_made_by_autograd_inside_the_model_are_verified(factor: float) -> None:
    adapter = DataAdapter(POINTS, {"energy": Field("1x0e", "graph"), "forces": Field("1x1o")})
    graph = _graph()
    with torch.no_grad():
        report = _verify(Molecules(factor), graph, adapter)
    assert [c.name for c in report.failures] == ([] if factor == 1 else ["force_consistency"]), report.to_text()
    assert {"rotation", "batch_independence", "force_consistency"} <= {c.name for c in report.checks}
    assert not graph.pos.requires_grad


def test_energy_and_forces_without_positions_are_compared_with_nothing() -> None:
    class FromVectors(nn.Module):
        def forward(self, graph: Data) -> tuple[Tensor, Tensor]:
            weight = torch.exp(-graph.edge_vec.square().sum(1, keepdim=True))
            forces = torch.zeros(5, 3, dtype=weight.dtype).index_add(0, graph.edge_index[0], weight * graph.edge_vec)
            return weight.sum(), forces

    graph = _rebuilt(_graph())
    del graph.pos
    graph.num_nodes = 5
    outputs = {"energy": Field("1x0e", "total"), "forces": Field("1x1o")}
    report = _verify(FromVectors(), graph, DataAdapter({"edge_vec": Field("1x1o", "edge")}, outputs))
    assert "positions" in report.skipped["force_consistency"]
    assert report.check("rotation").passed


# --- writes ---


class Writes(Pairs):
    """Keeps its edge vectors on the graph, and, when broken, takes those that it finds there."""

    def forward(self, graph: Data) -> Tensor:
        if not (self.broken and "kept" in graph):
            graph.kept = _vectors(graph)
        return Pairs(self.broken, "kept")(graph)


@pytest.mark.parametrize("broken", [True, False])
def test_what_a_model_writes_to_the_graph_is_reported_and_hides_nothing(broken: bool) -> None:
    graph = _graph()
    report = _verify(Writes(broken), graph, DataAdapter(POINTS, ENERGY), "input_mutation", "rotation")
    assert report.check("input_mutation").details["changed"] == ["kept"]
    assert report.check("rotation").passed is not broken
    assert "kept" not in graph


def test_model_that_centres_the_positions_in_place_leaves_the_callers_alone() -> None:
    class Centres(Pairs):
        def forward(self, graph: Data) -> Tensor:
            graph.pos -= graph.pos.mean(0)
            return super().forward(_rebuilt(graph))

    graph = _graph()
    before = graph.pos.clone()
    report = _verify(Centres(), graph, DataAdapter(POINTS, ENERGY), "input_mutation", "rotation")
    assert "pos" in report.check("input_mutation").details["changed"]
    assert torch.equal(graph.pos, before)
    assert _verify(Pairs(), _rebuilt(graph), DataAdapter(POINTS, ENERGY, rebuild=_rebuilt), "input_mutation").passed


# --- adapters that lack methods ---


def test_adapter_that_lacks_methods_is_refused_by_their_names() -> None:
    class Mine:
        def specs(self, model: Any, graph: Any) -> tuple[()]:
            return ()

    with pytest.raises(VerificationError, match=r"Mine lacks evaluate, num_nodes.*source"):
        verify_model(Pairs(), _graph(), adapter=Mine())  # type: ignore[arg-type]
