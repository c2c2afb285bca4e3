"""verify_model on a small graph network and on the networks of this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from tracegrad.errors import VerificationError
from tracegrad.graph import TargetLayout, graph_from_pairs
from tracegrad.model import DeepHE3, HarmoSE, Induction, NetworkSizes
from verify import DataAdapter, Field, Report, Verdict, replay_model, verify_model
from verify.adapter_tracegrad import TraceGradAdapter
from verify.adapters import tiled_edges

# --- a message-passing network with places for faults, on a declared Data ---


class Messages(nn.Module):
    """Vectors and an energy from the edges of a periodic graph."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault

    def forward(self, graph: Data) -> dict[str, Tensor]:
        i, j = graph.edge_index
        cell = graph.cell[graph.batch[i]] if "batch" in graph else graph.cell[0].expand(len(i), 3, 3)
        vectors = graph.pos[j] + torch.einsum("er,erx->ex", graph.edge_shift.to(graph.pos), cell) - graph.pos[i]
        if self.fault == "index order":
            vectors = torch.where((i < j)[:, None], vectors, -vectors)
        weight = torch.exp(-vectors.square().sum(1, keepdim=True)) * graph.charge[j]
        if self.fault == "edge order":
            weight = weight * (1 + 0.1 * torch.arange(len(weight), dtype=weight.dtype)[:, None])
        if self.fault == "cell":
            weight = weight * (1 + graph.cell[0].norm())
        if self.fault == "angle of the cell":
            weight = weight * (1 + torch.cosine_similarity(graph.cell[:, 0], graph.cell[:, 1]).mean())
        if self.fault == "home cell":
            weight = weight * (1 + 0.1 * (graph.edge_shift == 0).all(1, keepdim=True))
        if self.fault == "statistics":
            weight = weight / weight.mean()
        field = torch.zeros_like(graph.pos).index_add(0, i, weight * vectors)
        if self.fault == "axis":
            field = field * field.new_tensor([1.0, 1.0, 1.01])
        energy = field.square().sum().reshape(1, 1) + graph.charge.sum()
        return {"field": field, "pair": weight * vectors, "energy": energy}


def _periodic_data() -> Data:
    rng = np.random.default_rng(0)
    cell = np.array([[2.1, 0.1, 0.0], [0.2, 2.4, 0.0], [0.0, 0.3, 2.6]])
    positions = rng.random((4, 3)) @ cell
    edges, shifts = [], []
    for i in range(4):
        for j in range(4):
            for shift in np.ndindex(3, 3, 3):
                R = np.array(shift) - 1
                if 0 < np.linalg.norm(positions[j] + R @ cell - positions[i]) < 2.0:
                    edges.append((i, j))
                    shifts.append(R)
    return Data(
        pos=torch.from_numpy(positions),
        charge=torch.from_numpy(rng.normal(size=(4, 1))),
        cell=torch.from_numpy(cell)[None],
        edge_index=torch.tensor(edges).T,
        edge_shift=torch.from_numpy(np.array(shifts)),
    )


def _adapter() -> DataAdapter:
    return DataAdapter(
        {"pos": Field("cartesian_points"), "charge": Field("1x0e")},
        {"field": Field("1x1o"), "pair": Field("1x1o", "edge"), "energy": Field("1x0e", "total")},
        cell="cell",
        cell_shift="edge_shift",
    )


def _verify(model: nn.Module, **options: Any) -> Report:
    return verify_model(model, _periodic_data(), adapter=_adapter(), **{"trials": 8, "search": 4, **options})


def test_sound_graph_network_passes_every_check() -> None:
    report = _verify(Messages(), checks=None)
    failures = [c.name for c in report.failures]
    assert failures == [], report.to_text()
    applied = {c.name for c in report.checks}
    assert {"rotation", "translation", "node_permutation", "edge_permutation", "supercell", "far_fragment"} <= applied
    assert {"cell_choice", "modes", "history"} <= applied


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("axis", "rotation"),
        ("index order", "node_permutation"),
        ("edge order", "edge_permutation"),
        ("cell", "supercell"),
        ("angle of the cell", "cell_choice"),
        ("home cell", "cell_choice"),
        ("statistics", "far_fragment"),
    ],
)
def test_fault_of_a_graph_network_is_rejected_by_its_check(fault: str, check: str) -> None:
    report = _verify(Messages(fault), diagnose=False)
    assert report.check(check).verdict is Verdict.STRUCTURAL, report.to_text()


def test_supercells_of_the_same_shape_do_not_see_the_angle_of_a_cell() -> None:
    assert _verify(Messages("angle of the cell"), checks=["supercell"]).passed


@pytest.mark.parametrize("fault", ["index order", "edge order", "cell", "statistics", "angle of the cell", "home cell"])
def test_rotations_alone_do_not_see_these_faults(fault: str) -> None:
    assert _verify(Messages(fault), checks=["rotation", "inversion"]).passed


def test_statistics_over_the_batch_are_rejected() -> None:
    class Batched(Messages):
        def forward(self, graph: Data) -> dict[str, Tensor]:
            scale = graph.pos.std() if self.fault else 1.0
            return {"out": graph.charge * scale}

    adapter = DataAdapter({"pos": Field("cartesian_points"), "charge": Field("1x0e")}, {"out": Field("1x0e")})
    reports = [
        verify_model(Batched(fault), _periodic_data(), adapter=adapter, checks=["batch_independence"], diagnose=False)
        for fault in ("", "yes")
    ]
    assert [r.passed for r in reports] == [True, False]


def test_counterexample_of_a_graph_replays() -> None:
    model = Messages("axis")
    report = _verify(model)
    case = report.check("rotation").counterexample
    assert case is not None
    assert case.rows <= 2
    scope: dict[str, Any] = {"model": model, "adapter": _adapter()}
    exec(case.code, scope)
    assert scope["error"] == pytest.approx(case.error, rel=1e-6)


def test_replay_of_a_sound_model_is_round_off() -> None:
    assert replay_model(Messages(), _periodic_data(), _adapter(), quaternion=[1, 2, 3, 4], inversion=True) < 1e-11


def test_supercell_edges_join_the_right_cells() -> None:
    keys = np.array([[0, 1, 1, 0, 0], [1, 0, -1, 0, 0]])
    edges = tiled_edges(keys, 2, (2, 1, 1))
    assert edges.tolist() == [[0, 3, 0, 0, 0], [1, 2, -1, 0, 0], [2, 1, 1, 0, 0], [3, 0, 0, 0, 0]]


BAD_GRAPHS: dict[str, tuple[Callable[[Data], None], str]] = {
    "no nodes": (lambda g: g.update({"pos": torch.zeros(0, 3), "charge": torch.zeros(0, 1)}), "no nodes"),
    "not a number": (lambda g: g.pos.fill_(torch.nan), "NaN"),
    "integers": (lambda g: g.update({"charge": torch.ones(4, 1, dtype=torch.int64)}), "floating point"),
    "other width": (lambda g: g.update({"charge": torch.ones(4, 2)}), "last axis of 1"),
}


@pytest.mark.parametrize("name", BAD_GRAPHS)
def test_bad_graph_raises_and_says_what_was_expected(name: str) -> None:
    change, words = BAD_GRAPHS[name]
    graph = _periodic_data()
    change(graph)
    with pytest.raises(VerificationError, match=words):
        verify_model(Messages(), graph, adapter=_adapter())


def test_output_that_is_missing_raises() -> None:
    adapter = DataAdapter({"pos": Field("cartesian_points")}, {"nothing": Field("1x0e")})
    with pytest.raises(VerificationError, match="nothing"):
        verify_model(Messages(), _periodic_data(), adapter=adapter)


def test_output_with_other_rows_than_nodes_raises() -> None:
    adapter = DataAdapter({"pos": Field("cartesian_points")}, {"pair": Field("1x1o", "node")}, cell="cell")
    with pytest.raises(VerificationError, match="rows, but the graph has 4 nodes"):
        verify_model(Messages(), _periodic_data(), adapter=adapter)


def test_unknown_kind_of_graph_asks_for_an_adapter() -> None:
    with pytest.raises(VerificationError, match="DataAdapter"):
        verify_model(Messages(), _periodic_data())


# --- networks of this package ---


def _layout(spinful: bool) -> TargetLayout:
    return TargetLayout({6: (0, 1), 7: (0, 0, 1)}, spinful)


def _graph(layout: TargetLayout) -> Data:
    positions = torch.tensor([[0.0, 0.0, 0.0], [1.2, 0.4, 0.3], [0.3, 1.5, 1.1]], dtype=torch.float64)
    cell = torch.tensor([[3.1, 0.1, 0.0], [0.2, 3.3, 0.1], [0.0, 0.0, 9.0]], dtype=torch.float64)
    pairs = torch.tensor([[0, 0, 1, 0, 1], [1, 2, 2, 0, 0]])
    shift = torch.tensor([[0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]])
    return graph_from_pairs(torch.tensor([6, 7, 6]), positions, cell, pairs, shift, layout)


def _network(layout: TargetLayout, norm: str = "none", hermitian: bool = True) -> DeepHE3:
    torch.set_default_dtype(torch.float64)
    sizes = NetworkSizes("4x0e+3x1o+2x2e", 4, 3, 2, 4.0, 6, norm)
    return DeepHE3(layout, sizes, Induction(operator=True, width=8), hermitian).eval()


@pytest.mark.parametrize("spinful", [False, True], ids=["spinless", "spinful"])
def test_network_of_this_package_passes_every_check(spinful: bool) -> None:
    layout = _layout(spinful)
    report = verify_model(_network(layout), _graph(layout), trials=6, search=4)
    assert report.passed, report.to_text()
    applied = {c.name for c in report.checks}
    assert {"hermiticity", "supercell", "cell_choice", "far_fragment", "edge_permutation", "pole"} <= applied
    assert {"modes", "weights", "history"} <= applied
    assert {"gradient", "finite_difference", "jvp_vjp", "lie_derivative"} <= applied
    assert ("time_reversal" in applied) == spinful


class Traced(nn.Module):
    """A network that predicts trace labels, with a change to them."""

    def __init__(self, change: Callable[[Tensor, Data], Tensor], irreps: str = "") -> None:
        super().__init__()
        torch.set_default_dtype(torch.float64)
        layout = _layout(False)
        sizes = NetworkSizes("4x0e+3x1o+2x2e", 4, 3, 2, 4.0, 6, "none")
        self.network = DeepHE3(layout, sizes, Induction(trace=True, width=8, trace_width=8))
        self.targets, self.decoder, self.change = layout, self.network.decoder, change
        self.irreps_out = {**self.network.irreps_out, **({"trace": irreps} if irreps else {})}

    def forward(self, graph: Data) -> dict[str, Tensor]:
        outputs = self.network(graph)
        return {**outputs, **({"trace": self.change(outputs["trace"], graph)} if "trace" in outputs else {})}


TRACES: dict[str, tuple[Callable[[Tensor, Data], Tensor], str]] = {
    "sound": (lambda trace, graph: trace, ""),
    "x of the edge": (lambda trace, graph: trace * (1 + graph.edge_vectors[: len(trace), :1]), "rotation"),
    "order of the edges": (
        lambda trace, graph: trace + torch.arange(len(trace)).to(trace)[:, None],
        "edge_permutation",
    ),
    "mean over the graph": (lambda trace, graph: trace - trace.mean(0), "far_fragment"),
}


@pytest.mark.parametrize("name", TRACES)
def test_trace_labels_of_a_network_are_verified(name: str) -> None:
    change, check = TRACES[name]
    checks = ["rotation", "inversion", "node_permutation", "edge_permutation", "far_fragment", "supercell", "vacuity"]
    report = verify_model(Traced(change), _graph(_layout(False)), checks=checks, trials=4, diagnose=False)
    assert set(report.settings["irreps_out"]) == {"edge_irreps", "trace"}
    assert report.passed is (not check)
    assert not check or not report.check(check).passed
    assert all(b.output == "trace" for c in report.failures for b in c.blocks if b.ratio > 1)


def test_irreps_that_differ_from_those_of_the_targets_are_refused() -> None:
    with pytest.raises(VerificationError, match=r"irreps_out\['trace'\] of Traced is 1x0o, expected"):
        verify_model(Traced(TRACES["sound"][0], "1x0o"), _graph(_layout(False)))


def test_network_in_evaluation_mode_has_no_trace_to_verify() -> None:
    model = Traced(TRACES["x of the edge"][0]).eval()
    report = verify_model(model, _graph(_layout(False)), checks=["rotation"], trials=4)
    assert report.passed
    assert set(report.settings["irreps_out"]) == {"edge_irreps"}


def test_norm_over_the_graph_is_rejected_as_not_local() -> None:
    layout = _layout(False)
    report = verify_model(_network(layout, "graph"), _graph(layout), checks=["rotation", "far_fragment"], trials=4)
    assert [c.name for c in report.failures] == ["far_fragment"]


def test_model_without_symmetrisation_is_rejected_where_hermiticity_is_claimed() -> None:
    layout = _layout(False)
    model = _network(layout, hermitian=False)
    claimed = TraceGradAdapter(layout, hermitian=True)
    report = verify_model(model, _graph(layout), adapter=claimed, checks=["rotation", "hermiticity"], trials=4)
    assert [c.name for c in report.failures] == ["hermiticity"]
    assert "hermiticity" in verify_model(model, _graph(layout), checks=["rotation", "hermiticity"], trials=4).skipped


def test_output_in_another_order_of_components_is_rejected() -> None:
    layout = _layout(False)

    class Reversed(DeepHE3):
        def forward(self, graph: Data) -> dict[str, Tensor]:
            irreps = super().forward(graph)["edge_irreps"]
            vector = next(s for s, (_, ir) in zip(layout.irreps.slices(), layout.irreps, strict=True) if ir.l == 1)
            return {
                "edge_irreps": torch.cat(
                    [irreps[:, : vector.start], irreps[:, vector].flip(1), irreps[:, vector.stop :]], 1
                )
            }

    torch.set_default_dtype(torch.float64)
    model = Reversed(layout, NetworkSizes("4x0e+3x1o+2x2e", 4, 3, 2, 4.0, 6, "none")).eval()
    report = verify_model(model, _graph(layout), checks=["rotation"], trials=4, diagnose=False)
    assert report.verdict is Verdict.STRUCTURAL


def test_approximate_model_is_measured_in_mev_and_never_called_exact() -> None:
    layout = _layout(False)

    class Approximate(DeepHE3):
        approximate = True

        def forward(self, graph: Data) -> dict[str, Tensor]:
            irreps = super().forward(graph)["edge_irreps"]
            return {"edge_irreps": irreps + 1e-3 * torch.tanh(irreps)}

    torch.set_default_dtype(torch.float64)
    model = Approximate(layout, NetworkSizes("4x0e+3x1o+2x2e", 4, 3, 2, 4.0, 6, "none")).eval()
    options: dict[str, Any] = {"checks": ["rotation", "node_permutation", "vacuity"], "trials": 6, "diagnose": False}
    unbounded = verify_model(model, _graph(layout), **options)
    assert not unbounded.passed
    assert "approximate" in unbounded.check("budget").message
    within = verify_model(model, _graph(layout), budget_mev=5.0, **options)
    assert within.passed
    assert "not exact" in within.to_text()
    assert "not exact" in within.to_markdown()
    assert 0 < within.check("budget").error < 5.0
    assert verify_model(model, _graph(layout), budget_mev=1e-9, **options).exit_code == 1


def test_approximate_model_passes_no_check_alone_without_a_budget() -> None:
    layout = _layout(False)
    model = HarmoSE(_network(layout), width=8, num_blocks=1, heads=2).double()
    report = verify_model(model, _graph(layout), checks=["node_permutation"], trials=4)
    assert report.check("node_permutation").passed
    assert report.verdict is Verdict.SUSPECT
    assert "no budget" in report.check("budget").message


def test_model_that_claims_to_be_exact_has_to_be_exact_whatever_the_budget() -> None:
    layout = _layout(False)

    class Shifted(DeepHE3):
        def forward(self, graph: Data) -> dict[str, Tensor]:
            return {"edge_irreps": super().forward(graph)["edge_irreps"] + 1e-6}

    options: dict[str, Any] = {"checks": ["rotation"], "trials": 4, "diagnose": False, "budget_mev": 5.0}
    torch.set_default_dtype(torch.float64)
    broken = Shifted(layout, NetworkSizes("4x0e+3x1o+2x2e", 4, 3, 2, 4.0, 6, "none")).eval()
    report = verify_model(broken, _graph(layout), **options)
    assert report.check("budget").passed
    assert not report.check("rotation").passed
    sound = verify_model(_network(layout), _graph(layout), **options)
    assert sound.passed
    assert "not exact" not in sound.to_text()
