"""The public call builds the network that is trained."""

from __future__ import annotations

from dataclasses import replace

import torch

from tracegrad.config import load_config
from tracegrad.data import load_dataset
from tracegrad.graph import build_graph
from tracegrad.model import build_model, frame_degree
from tracegrad.training.checkpoint import DataSummary, make_network

SMALL = ("hidden_irreps=4x0e+2x1o+2x2e", "embed_dim=4", "num_radial=6", "operator_width=4", "trace_width=4")


def test_the_public_call_builds_the_network_that_is_trained() -> None:
    dataset = load_dataset("MG")
    config = load_config(preset="smoke", dataset="MG", overrides=[*SMALL, "envelope_end=6"]).model
    assert config.num_neighbors != 1.0
    trained = make_network(config, DataSummary.of(dataset)).eval()
    graph = build_graph(dataset.test[0], trained.targets, lmax=frame_degree(trained), dtype=torch.float32)

    def outputs(model: torch.nn.Module) -> torch.Tensor:
        model.load_state_dict(trained.state_dict())
        with torch.no_grad():
            return model.eval()(graph)["edge_irreps"]

    wanted = outputs(trained)
    assert torch.equal(outputs(build_model(config, dataset)), wanted)
    plain = outputs(build_model(config, dataset, num_neighbors=1.0))
    assert torch.equal(outputs(build_model(replace(config, num_neighbors=1.0), dataset)), plain)
    assert not torch.allclose(plain, wanted, rtol=0, atol=1e-3 * float(wanted.abs().max()))  # control
