"""What a DeepH-E3 network is: irreps, sizes and orbitals, from the files beside a checkpoint or from a parity case.

Nothing is executed: ``build_model.py`` of a DeepH-E3 run is parsed, and only literals in its one call are taken.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e3nn.o3 import Irreps
from torch import Tensor

from tracegrad.errors import CheckpointError
from tracegrad.graph.layout import TargetLayout
from tracegrad.model.deephe3 import DeepHE3, NetworkSizes
from tracegrad.model.deephe3_weights import deephe3_channels, load_deephe3_weights

MAX_TEXT = 1_000_000  # bytes of a description; a larger file is something else


@dataclass(frozen=True)
class DeepHE3Description:
    """A DeepH-E3 network (arXiv:2210.13955, public code).

    Attributes:
        orbitals: degrees of the shells of every element.
        spinful: complex blocks with spin.
        irreps: ``irreps_embed``, ``irreps_mid``, ``irreps_post_node``, ``irreps_post_edge``, ``irreps_out_edge``.
        lmax_sh: largest degree of the spherical harmonics.
        num_blocks: pairs of node and edge update.
        r_max: end of the Gaussian grid, Å.
        num_radial: number of Gaussians.
    """

    orbitals: dict[int, tuple[int, ...]]
    spinful: bool
    irreps: dict[str, str]
    lmax_sh: int
    num_blocks: int
    r_max: float
    num_radial: int

    @property
    def embed_dim(self) -> int:
        """Scalars of a node and of an edge before the first block."""
        return int(Irreps(self.irreps["irreps_embed"]).num_irreps)

    def targets(self) -> TargetLayout:
        """The layout of the targets: all blocks, all spin components.

        Raises:
            CheckpointError: the network predicts other blocks, or in another order.
        """
        targets = TargetLayout(self.orbitals, self.spinful, time_reversal=False)
        expected = Irreps([targets.irreps[c] for c in deephe3_channels(targets).tolist()])
        if expected != Irreps(self.irreps["irreps_out_edge"]):
            raise CheckpointError(
                f"expected a network of all {targets.num_channels} blocks of the shells {self.orbitals}, found other "
                f"irreps_out_edge. Only target_blocks_type = all can be read."
            )
        return targets

    def sizes(self) -> NetworkSizes:
        """Sizes of our network."""
        return NetworkSizes(
            hidden_irreps=self.irreps["irreps_mid"],
            embed_dim=self.embed_dim,
            lmax_sh=self.lmax_sh,
            num_blocks=self.num_blocks,
            r_max=self.r_max,
            num_radial=self.num_radial,
            norm="graph",
        )

    def network(self, state: Mapping[str, Tensor]) -> DeepHE3:
        """Our network with the weights of a DeepH-E3 ``state_dict``, in their dtype.

        Raises:
            CheckpointError: a weight is missing or of another shape.
        """
        model = DeepHE3(self.targets(), self.sizes(), hermitian=False)
        model.to(next(iter(state.values())).dtype)
        load_deephe3_weights(model, state, self.irreps)
        return model


def description_of_case(meta: Mapping[str, Any]) -> DeepHE3Description:
    """Description from the ``meta`` record of a parity case.

    Raises:
        CheckpointError: a field is missing or of another kind.
    """
    try:
        return DeepHE3Description(
            orbitals={int(Z): tuple(int(l) for l in shells) for Z, shells in meta["orbitals"].items()},
            spinful=bool(meta["spinful"]),
            irreps={name: str(Irreps(meta[name])) for name in IRREPS},
            lmax_sh=Irreps(meta["irreps_sh"]).lmax,
            num_blocks=int(meta["num_blocks"]),
            r_max=float(meta["gaussian_stop"]),
            num_radial=int(meta["num_gaussians"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"meta: expected the record of a parity case, found {_kind(error)}") from None


IRREPS = ("irreps_embed", "irreps_mid", "irreps_post_node", "irreps_post_edge", "irreps_out_edge")


def description_beside(checkpoint: Path, state: Mapping[str, Tensor], source: Path | None = None) -> DeepHE3Description:
    """Description of a DeepH-E3 checkpoint from ``src/build_model.py`` and ``src/dataset_info.json`` beside it.

    Args:
        checkpoint: ``model.pkl`` or ``best_model.pkl``.
        state: its ``state_dict``, which gives the number of Gaussians.
        source: the folder of the two files, by default ``src`` beside the checkpoint.

    Raises:
        CheckpointError: a file is missing or damaged, or the network has parts that are not supported.
    """
    folder = checkpoint.parent / "src" if source is None else source
    call, info = _network_call(folder / "build_model.py"), _dataset_info(folder / "dataset_info.json")
    try:
        for name in ("use_sbf", "only_ij", "no_parity", "if_sort_irreps", "selftp"):
            if call.get(name):
                raise CheckpointError(f"{folder}: expected a network with {name} = False, found True; not supported")
        if call["irreps_mid_node"] != call["irreps_mid_edge"] or call["irreps_embed_node"] != call["irreps_edge_init"]:
            raise CheckpointError(f"{folder}: expected the same irreps for nodes and edges, found different ones")
        names = ("irreps_embed_node", "irreps_mid_node", "irreps_post_node", "irreps_post_edge", "irreps_out_edge")
        return DeepHE3Description(
            orbitals=info[0],
            spinful=info[1],
            irreps={ours: str(Irreps(call[theirs])) for ours, theirs in zip(IRREPS, names, strict=True)},
            lmax_sh=Irreps(call["irreps_sh"]).lmax,
            num_blocks=int(call["num_block"]),
            r_max=float(call["r_max"]),
            num_radial=state["node_update_blocks.0.conv.fc.0.weight"].shape[1],
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{folder}: expected the description of a DeepH-E3 network, found {_kind(error)}"
        ) from None


def _network_call(path: Path) -> dict[str, Any]:
    """Literal keyword arguments of the call ``Net(...)`` in a file; the file is parsed, never run."""
    try:
        tree = ast.parse(_text(path))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        (call,) = [node for node in calls if isinstance(node.func, ast.Name) and node.func.id == "Net"]
        return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path}: expected one call Net(name=value, ...) of literals, found {_kind(error)}"
        ) from None


def _dataset_info(path: Path) -> tuple[dict[int, tuple[int, ...]], bool]:
    """Orbitals by atomic number, and whether there is spin."""
    try:
        record = json.loads(_text(path))
        shells = [tuple(int(l) for l in entry) for entry in record["orbital_types"]]
        return dict(zip(map(int, record["index_to_Z"]), shells, strict=True)), bool(record["spinful"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path}: expected spinful, index_to_Z and orbital_types of a DeepH-E3 run, found {_kind(error)}"
        ) from None


def _text(path: Path) -> str:
    if not path.is_file():
        raise CheckpointError(f"{path}: not found; expected the folder src of a DeepH-E3 run. Name it with --src.")
    if path.stat().st_size > MAX_TEXT:
        raise CheckpointError(f"{path}: expected a short text, found {path.stat().st_size} bytes")
    return path.read_text(encoding="utf-8")


def _kind(error: Exception) -> str:
    """An error in a few words."""
    return f"{type(error).__name__}: {str(error)[:120]}"
