"""What no run can do although every single value is allowed: refused before any work starts."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable
from typing import Any

from tracegrad.config.schema import LOGGERS, Config, ModelConfig, TrainingConfig
from tracegrad.errors import ConfigError, did_you_mean

IRREP = re.compile(r"\s*(?:([0-9]{1,6})x)?([0-9]{1,2})([eo])\s*")  # 64x0e
MAX_DEGREE = 12  # of features, as of the spherical harmonics


def check_config(config: Config, where: str = "configuration") -> None:
    """Refuse what contradicts itself, before any work starts.

    Args:
        config: values that are allowed one by one.
        where: file or option that they come from, for the message.

    Raises:
        ConfigError: naming the two keys that do not fit.
    """
    _check_model(config.model, where)
    _check_training(config.training, where)


def _check_model(model: ModelConfig, where: str) -> None:
    """Refuse options of the network that another one would silently leave out."""
    _check_irreps(model.hidden_irreps, where)
    if model.setting.startswith("HarmoSE"):
        _check_harmose(model, where)
    for name in ("trace_of_residual", "reference_only"):
        if getattr(model, name) and not model.reference:
            raise ConfigError(f"{where}: model.{name} needs model.reference true, found false")
    if model.operator_rank > 1 and model.operator != "low_rank":
        raise ConfigError(
            f"{where}: model.operator_rank {model.operator_rank} needs model.operator 'low_rank', found "
            f"{model.operator!r}"
        )
    if model.envelope_end and not model.envelope:
        raise ConfigError(f"{where}: model.envelope_end needs model.envelope at least 1, found 0")
    if model.envelope_end > model.r_max:
        raise ConfigError(
            f"{where}: model.envelope_end: expected at most model.r_max, {model.r_max:g} Å, found "
            f"{model.envelope_end:g}; lower it, or raise model.r_max"
        )


def _check_training(training: TrainingConfig, where: str) -> None:
    """Refuse options of the training that another one would silently leave out, or that undo each other."""
    unknown = sorted(set(training.loggers) - set(LOGGERS))
    if unknown:
        raise ConfigError(f"{where}: training.loggers: unknown {unknown[0]!r}. {did_you_mean(unknown[0], LOGGERS)}")
    if training.weight_decay and training.optimizer == "adam":
        raise ConfigError(
            f"{where}: training.weight_decay needs training.optimizer 'adamw' or 'soap', found {training.optimizer!r}"
        )
    if training.schedule == "plateau" and training.smoothing == 0:
        raise ConfigError(
            f"{where}: training.schedule 'plateau' needs training.smoothing above 0, found 0, with which no validation "
            "loss but the first is seen; 1 takes the newest one alone"
        )
    if 0 < training.revert_ratio < 1:
        raise ConfigError(
            f"{where}: training.revert_ratio: expected 0 or a number at least 1, found {training.revert_ratio:g}, "
            "which even the best loss exceeds"
        )
    if training.cuda_graphs:
        _check_recordable(training, where)


def _check_irreps(text: str, where: str) -> None:
    """Refuse features that no network can have; read here by hand, as e3nn's own class would import torch."""
    parts = [IRREP.fullmatch(part) for part in text.split("+")]
    found = [(int(part[1] or 1), int(part[2]), part[3]) for part in parts if part]
    if len(found) < len(parts) or any(l > MAX_DEGREE for _, l, _ in found):
        raise ConfigError(
            f"{where}: model.hidden_irreps: expected irreps of degrees 0 to {MAX_DEGREE} such as '64x0e+32x1o+16x2e', "
            f"found {shown(text)}"
        )
    if not any(mul and (l, parity) == (0, "e") for mul, l, parity in found):
        raise ConfigError(
            f"{where}: model.hidden_irreps: expected scalars 0e among the features, which gate all others, found "
            f"{shown(text)}; add some, such as '64x0e'"
        )


def _check_harmose(model: ModelConfig, where: str) -> None:
    """Refuse a second stage that the first one cannot feed, or that cannot be cut into heads."""
    if not model.hermitian:
        raise ConfigError(f"{where}: model.setting {model.setting!r} needs model.hermitian true, found false")
    if model.harmose_width % model.harmose_heads:
        raise ConfigError(
            f"{where}: model.harmose_width: expected a multiple of model.harmose_heads, found {model.harmose_width} "
            f"for {model.harmose_heads} heads"
        )


def _check_recordable(training: TrainingConfig, where: str) -> None:
    """Refuse what changes from step to step in a way that a recorded step cannot follow."""
    needed = {"batch_size": 1, "devices": 1, "nodes": 1, "rotate_after": 1.0, "lambda_schedule": "constant"}
    for name, value in needed.items():
        if getattr(training, name) != value:
            raise ConfigError(
                f"{where}: training.cuda_graphs needs training.{name} {value!r}, found {getattr(training, name)!r}"
            )


def check_budget(config: Config, where: str = "configuration") -> None:
    """Refuse a run that would never end.

    Raises:
        ConfigError: no limit is given.
    """
    training = config.training
    if not (training.epochs or training.max_steps or training.max_seconds):
        raise ConfigError(f"{where}: no budget; give at least one of training.epochs, max_steps, max_seconds")


def shown(value: Any, form: Callable[[Any], str] = reprlib.repr) -> str:
    """Beginning of a value for a message; Python refuses to write out integers of more than 4,300 digits."""
    try:
        return form(value)[:80]
    except ValueError:
        return f"{type(value).__name__} of thousands of digits"
