"""Potentials of other packages under the verifier: ``nox -s peers``.

Each is built by its own package with random weights and verified as its users call it. It must pass; with a fault
planted from outside, in what it computes from the directions of its edges, it must not. A package that cannot be
imported is named, and the others are verified.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from torch import Tensor, nn

from benchmarks.environment import environment
from benchmarks.ledger import write_json
from verify import Verdict
from verify.adapter_data import DataAdapter
from verify.fields import Field
from verify.targets import Target

ELEMENTS = (1, 6, 8)
R_MAX = 5.0  # Å

Fault = Callable[[Tensor], Tensor]
"""What is done to the directional features, shape (E, components), of the edges."""


def sound(features: Tensor) -> Tensor:
    """Leave the features as they are."""
    return features


def skewed(features: Tensor) -> Tensor:
    """Make the last component larger by one part in a million."""
    scale = torch.ones(features.shape[-1], dtype=features.dtype)
    scale[-1] += 1e-6
    return features * scale


def rounded(features: Tensor) -> Tensor:
    """Round to single precision."""
    return features.float().to(features.dtype)


FAULTS: tuple[Fault, ...] = (sound, skewed, rounded)


def ethanol() -> Atoms:
    """Ethanol away from its symmetric geometry."""
    atoms: Atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    return atoms


def mace(fault: Fault) -> Target:
    """Two layers of MACE, correlation order 3, by its ASE calculator."""
    from e3nn.o3 import Irreps
    from mace.calculators import MACECalculator
    from mace.modules import ScaleShiftMACE, interaction_classes

    interaction = interaction_classes["RealAgnosticResidualInteractionBlock"]
    model = ScaleShiftMACE(
        r_max=R_MAX,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=interaction,
        interaction_cls_first=interaction,
        num_interactions=2,
        num_elements=len(ELEMENTS),
        hidden_irreps=Irreps("16x0e+16x1o"),
        MLP_irreps=Irreps("8x0e"),
        atomic_energies=np.array([-1.0, -2.0, -3.0]),
        avg_num_neighbors=8.0,
        atomic_numbers=list(ELEMENTS),
        correlation=3,
        gate=nn.functional.silu,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    model.spherical_harmonics.register_forward_hook(lambda _module, _inputs, output: fault(output))
    return Target(MACECalculator(models=[model], device="cpu", default_dtype="float64"), graph=ethanol())


def nequip(fault: Fault) -> Target:
    """Two layers of NequIP, l up to 2, by its ASE calculator."""
    from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
    from nequip.integrations.ase import NequIPCalculator
    from nequip.model import NequIPGNNModel
    from nequip.nn.embedding import SphericalHarmonicEdgeAttrs
    from nequip.utils.global_state import set_global_state

    set_global_state()
    symbols = ["H", "C", "O"]
    model = NequIPGNNModel(
        seed=0,
        model_dtype="float64",
        type_names=symbols,
        r_max=R_MAX,
        num_layers=2,
        l_max=2,
        num_features=8,
        parity=True,
        radial_mlp_depth=1,
        radial_mlp_width=16,
        avg_num_neighbors=8.0,
    ).eval()
    (harmonics,) = (m for m in model.modules() if isinstance(m, SphericalHarmonicEdgeAttrs))

    def plant(_module: nn.Module, _inputs: Any, output: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**output, harmonics.out_field: fault(output[harmonics.out_field])}

    harmonics.register_forward_hook(plant)
    transforms = [ChemicalSpeciesToAtomTypeMapper(symbols), NeighborListTransform(r_max=R_MAX)]
    return Target(NequIPCalculator(model, device="cpu", transforms=transforms), graph=ethanol())


class _EnergyAndForces(nn.Module):
    """A potential of torch_geometric with forces by differentiation."""

    def __init__(self, potential: nn.Module) -> None:
        super().__init__()
        self.potential = potential

    def forward(self, graph: Any) -> dict[str, Tensor]:
        pos = graph.pos if graph.pos.requires_grad else graph.pos.requires_grad_()
        batch = graph.batch if "batch" in graph else torch.zeros_like(graph.z)
        energy = self.potential(graph.z, pos, batch)
        (slope,) = torch.autograd.grad(energy.sum(), pos, create_graph=True)
        return {"energy": energy, "forces": -slope}


def schnet(fault: Fault) -> Target:
    """Two interactions of SchNet on a graph in memory."""
    from torch_geometric.data import Data
    from torch_geometric.nn import SchNet

    def neighbours(pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        near = (torch.cdist(pos.detach(), pos.detach()) < R_MAX) & (batch[:, None] == batch)
        edge_index = near.fill_diagonal_(False).nonzero().T
        return edge_index, fault(pos[edge_index[1]] - pos[edge_index[0]]).norm(dim=-1)

    network = SchNet(hidden_channels=32, num_filters=32, num_interactions=2, cutoff=R_MAX, interaction_graph=neighbours)
    atoms = ethanol()
    graph = Data(z=torch.tensor(atoms.numbers), pos=torch.tensor(atoms.positions))
    outputs = {"energy": Field("1x0e", "graph"), "forces": Field("1x1o")}
    adapter = DataAdapter({"pos": Field("cartesian_points")}, outputs)
    return Target(_EnergyAndForces(network.double()), graph=graph, adapter=adapter)


PEERS: dict[str, Callable[[Fault], Target]] = {"mace-torch": mace, "nequip": nequip, "torch-geometric": schnet}
"""Package -> builder of its potential."""


@dataclass(frozen=True)
class Row:
    """One verification.

    Args:
        potential: name of the builder.
        package: distribution and version.
        fault: what was planted; ``sound`` is nothing.
        verdict: of the verifier.
        failures: checks that failed.
        rotation_error: largest error under rotations, relative.
        tolerance: of that error.
        seconds: time of the verification.
    """

    potential: str
    package: str
    fault: str
    verdict: str
    failures: list[str]
    rotation_error: float
    tolerance: float
    seconds: float

    @property
    def right(self) -> bool:
        """Whether a sound potential passed, or a faulty one did not."""
        return (self.verdict == Verdict.PASS.value) == (self.fault == sound.__name__)


def measure(package: str, fault: Fault, **options: Any) -> Row:
    """Build a potential with a fault and verify it; ``options`` are those of the verifier.

    Raises:
        ImportError: the package, or one that it needs, is not installed.
    """
    build, before = PEERS[package], torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        target = build(fault)
        start = time.perf_counter()
        report = target.verify(**options)
    finally:
        torch.set_default_dtype(before)
    rotation = report.check("rotation")
    return Row(
        build.__name__,
        f"{package} {importlib.metadata.version(package)}",
        fault.__name__,
        report.verdict.value,
        [check.name for check in report.failures],
        rotation.error,
        rotation.tolerance,
        time.perf_counter() - start,
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown table of the rows."""
    lines = ["| potential | planted | verdict | rotation: error | tolerance | failed |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row.potential} ({row.package}) | {'nothing' if row.fault == 'sound' else row.fault} | {row.verdict} "
        f"| {row.rotation_error:.1e} | {row.tolerance:.1e} | {', '.join(row.failures) or '-'} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify and print; exit code 1 where a sound potential fails, a faulty one passes or a package is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--packages", default=",".join(PEERS), help=f"with commas (default {','.join(PEERS)})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record here")
    options = parser.parse_args(arguments)
    names = options.packages.split(",")
    if unknown := sorted(set(names) - set(PEERS)):
        parser.error(f"unknown packages {', '.join(unknown)}; there are {', '.join(PEERS)}")
    rows: list[Row] = []
    wrong: list[str] = []
    for name in names:
        try:
            rows += [measure(name, fault, diagnose=False) for fault in FAULTS]
        except ImportError as error:
            wrong.append(f"{name} was not verified: {error} (--packages chooses others)")
    print(table(rows))
    wrong += [f"{row.potential} ({row.fault}) got {row.verdict}" for row in rows if not row.right]
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    if options.json:
        write_json(options.json, {"rows": [asdict(row) for row in rows], "environment": environment()})
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
