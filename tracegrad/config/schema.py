"""What a run can be told: one dataclass per section, each field with its default, meaning and allowed values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import yaml

SETTINGS = ("DeepHE3", "DeepHE3+Trace", "DeepHE3+Grad", "DeepHE3+TraceGrad", "HarmoSE", "HarmoSE+TraceGrad")
PRESETS = ("smoke", "bundled", "published")
RECIPES = ("paper", "fast")
LOGGERS = ("tensorboard", "wandb")

T = TypeVar("T")


def option(
    default: T, doc: str, *, choices: tuple[T, ...] = (), low: float | None = None, high: float | None = None
) -> T:
    """A dataclass field with its default, its meaning, and the values it may take.

    Args:
        default: value used when the key is not given.
        doc: its meaning in one sentence, with the unit; shown by ``tracegrad info --options``.
        choices: the only values allowed, if not empty.
        low: smallest allowed number.
        high: largest allowed number.

    Returns:
        A dataclass field, typed as the default.
    """
    metadata = {"doc": doc, "choices": choices, "low": low, "high": high}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class DataConfig:
    """What is trained on."""

    dataset: str = option("MG", "Key of the database: MG, MM, BG, BB, BT, BS, or any name for data of one's own.")
    source: str = option("bundled", "'bundled', 'published', or a path to an HDF5 file or a folder.")
    num_train: int = option(0, "Use only the first so many training structures; 0 means all.", low=0)


@dataclass(frozen=True)
class ModelConfig:
    """The network: backbone, gradient operator, symmetries, and what is fitted before training."""

    setting: str = option("DeepHE3+TraceGrad", "Row of the paper's tables.", choices=SETTINGS)
    hidden_irreps: str = option("64x0e+32x1o+16x2e+8x3o+8x4e+4x5o", "Node and edge features of the paper.")
    embed_dim: int = option(64, "Scalars of a node and of an edge before the first block.", low=2)
    lmax_sh: int = option(5, "Largest degree of the spherical harmonics of the edges.", low=0, high=12)
    num_blocks: int = option(3, "Pairs of node update and edge update, K.", low=1)
    r_max: float = option(
        7.2, "Distance in Å at which the Gaussian grid ends; lengths beyond it do not reach the network.", low=0.1
    )
    num_radial: int = option(128, "Gaussians of the radial basis.", low=2)
    norm: str = option(
        "graph",
        "Layer norm; 'graph' is the published one, with statistics of the whole graph, hence not local.",
        choices=("graph", "none"),
    )
    num_neighbors: float = option(
        1.0, "The sum of messages into a node is divided by the root of this; the paper has the plain sum, 1.", low=1.0
    )
    envelope: int = option(
        0, "Power p of the factor (1 - (r/r_end)^2)^p of messages into a node; the paper has none, 0.", low=0
    )
    envelope_end: float = option(0.0, "With envelope: the distance r_end in Å; 0 means r_max.", low=0.0)
    backend: str = option("fast", "Layers in the edge frame, or e3nn's (slow, same numbers).", choices=("fast", "e3nn"))
    operator: str = option(
        "packed",
        "W of u = W·CG(f⊗f, 0): 'packed' is the full symmetric matrix (authors), 'low_rank' squares of projections.",
        choices=("packed", "low_rank"),
    )
    operator_width: int = option(1024, "Channels of u (authors: 1024).", low=2)
    operator_rank: int = option(1, "With 'low_rank': projections per channel of f.", low=1)
    operator_norm: bool = option(True, "Layer norms in s_nonlin, the map from u to z (paper: yes).")
    operator_gain: float = option(1.0, "Factor of v in o = f + gain·v at the start of training (paper: 1).")
    operator_gain_learned: bool = option(False, "Train the gain, one per irrep of f.")
    trace_width: int = option(1024, "Hidden width of the invariant decoder (authors: 1024).", low=2)
    trace_of_residual: bool = option(
        False, "Make the labels T (+Trace, +TraceGrad) of H minus the two-centre reference."
    )
    hermitian: bool = option(True, "Symmetrise the decoded blocks over (i, j, R) and (j, i, -R).")
    time_reversal: bool = option(True, "Spinful data: predict only the components that time reversal allows.")
    reference: bool = option(False, "Let the network learn H minus the two-centre reference of the training set.")
    reference_only: bool = option(False, "Predict the two-centre reference alone: how far two-centre physics gets.")
    scaling: str = option(
        "none", "Output scale per irrep channel, from the training targets.", choices=("none", "channel")
    )
    harmose_width: int = option(256, "HarmoSE: width d of the transformer of the second stage.", low=8)
    harmose_blocks: int = option(4, "HarmoSE: transformer blocks.", low=1)
    harmose_heads: int = option(4, "HarmoSE: attention heads.", low=1)


@dataclass(frozen=True)
class TrainingConfig:
    """Optimiser, schedule, loss weights, budgets, and what happens when the loss blows up."""

    start_from: str = option("", "Checkpoint whose weights the run starts from; what it lacks starts fresh.")
    optimizer: str = option(
        "adam",
        "Adam (paper), AdamW, or SOAP on the matrices of every pair of irreps.",
        choices=("adam", "adamw", "soap"),
    )
    learning_rate: float = option(0.003, "Rate of the optimiser after the warm-up.", low=0.0)
    weight_decay: float = option(0.0, "Decoupled weight decay (AdamW, and the matrices with SOAP).", low=0.0)
    schedule: str = option(
        "slippery_slope",
        "Rate over the run: decays at fixed epochs, decays on a plateau of the validation loss, cosine, one cycle.",
        choices=("slippery_slope", "plateau", "cosine", "one_cycle", "constant"),
    )
    decay: float = option(0.5, "Factor of one decay (slippery_slope, plateau).", low=0.0, high=1.0)
    start: int = option(700, "slippery_slope: epoch of the first decay.", low=0)
    interval: int = option(300, "slippery_slope: epochs from one decay to the next.", low=1)
    patience: int = option(180, "plateau: epochs without improvement before a decay.", low=1)
    cooldown: int = option(40, "plateau: epochs after a decay in which none follows.", low=0)
    threshold: float = option(0.05, "plateau: relative improvement that counts.", low=0.0, high=1.0)
    smoothing: float = option(0.1, "plateau: weight > 0 of the newest validation loss in the mean.", low=0.0, high=1.0)
    final_rate: float = option(0.01, "cosine, one_cycle: last rate over the learning rate.", low=0.0, high=1.0)
    warmup_steps: int = option(0, "Steps in which the rate grows linearly from zero.", low=0)
    clip: float = option(0.0, "Largest norm of the gradient; 0 means no clipping.", low=0.0)
    ema_decay: float = option(0.0, "Decay per step of the mean of the weights; 0: none.", low=0.0, high=0.999999)
    batch_size: int = option(1, "Structures per step (of each process).", low=1)
    epochs: int = option(0, "Budget in passes over the training set; 0 means none.", low=0)
    max_steps: int = option(0, "Budget in steps; 0 means none.", low=0)
    max_seconds: float = option(0.0, "Budget in seconds; 0 means none. The steps then depend on the machine.", low=0.0)
    validate_every: int = option(0, "Epochs between validations; 0 keeps them near 5 % of the time.", low=0)
    validate_mae: bool = option(False, "Measure MAE_all at every validation too (for learning curves).")
    seed: int = option(42, "Seed of the initial weights and of the order of the data.", low=0, high=2**32 - 1)
    dtype: str = option("float32", "Precision of weights and features.", choices=("float32", "float64"))
    device: str = option("auto", "'auto' takes a GPU if there is one.", choices=("auto", "cpu", "cuda"))
    cuda_graphs: bool = option(
        False, "On a GPU: record the step of every structure once and replay it, one launch instead of thousands."
    )
    devices: int = option(1, "Processes of this run, each with a device of its own (DDP).", low=1)
    nodes: int = option(1, "Machines of this run; `devices` processes on each.", low=1)
    threads: int = option(0, "CPU threads; 0 leaves torch's choice.", low=0)
    rotate_after: float = option(
        1.0,
        "Part of the run after which batches are rotated at random, for networks that must learn to rotate; 1: never.",
        low=0.0,
        high=1.0,
    )
    lambda_trace: float = option(0.3, "λ of L = L_H + λ·stopgrad(L_H / L_T)·L_T (Eq. 11).", low=0.0)
    lambda_schedule: str = option(
        "constant", "λ over the run; annealed: to 0 in the second half.", choices=("constant", "annealed")
    )
    trace_loss: str = option(
        "mse", "L_T: mean square (paper) or absolute (authors' later code).", choices=("mse", "l1")
    )
    trace_standardize: bool = option(False, "Standardise T over the blocks of each edge (authors' later code).")
    revert_ratio: float = option(
        2.0, "Go back to the best weights when the loss exceeds ratio × best; at least 1, or 0: never.", low=0.0
    )
    revert_epochs: int = option(20, "... for so many epochs in a row.", low=1)
    revert_decay: float = option(0.8, "Factor of the rate at each return.", low=0.0, high=1.0)
    max_nan_reverts: int = option(3, "Returns after a loss that is not a number, before the run stops.", low=0)
    select: str = option("best", "Final weights: the best on validation data, or the last.", choices=("best", "last"))
    checkpoint_seconds: float = option(60.0, "Seconds between two states to resume from; 0: every step.", low=0.0)
    log_every: int = option(50, "Steps between two entries of the training loss.", low=1)
    loggers: tuple[str, ...] = option(("tensorboard",), "Loggers besides history.csv: 'tensorboard', 'wandb'.")


@dataclass(frozen=True)
class Config:
    """One run."""

    preset: str = option("", "Preset that it starts from: smoke, bundled or published; empty for the recipe alone.")
    recipe: str = option("paper", "Everything about training that is not the method.", choices=RECIPES)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionary, ready for YAML and JSON (tuples become lists)."""
        return cast(dict[str, Any], _plain(dataclasses.asdict(self)))

    def to_yaml(self) -> str:
        """The configuration as YAML, one key per line."""
        return str(yaml.safe_dump(self.to_dict(), sort_keys=False, width=120))


SECTIONS: dict[str, type[Any]] = {"data": DataConfig, "model": ModelConfig, "training": TrainingConfig}


def option_rows() -> list[tuple[str, str, Any, str]]:
    """Every option as (section.key, type, default, meaning)."""
    rows = []
    sections: dict[str, type[Any]] = {"": Config, **SECTIONS}
    for section, cls in sections.items():
        for item in dataclasses.fields(cls):
            if "doc" in item.metadata:
                choices = ", ".join(map(str, item.metadata["choices"]))
                meaning = item.metadata["doc"] + (f" One of: {choices}." if choices else "")
                name = f"{section}.{item.name}" if section else item.name
                rows.append((name, str(item.type), item.default, meaning))
    return rows


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple) else value
