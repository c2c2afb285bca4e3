"""What one entry of the catalogue is: a fault or a control, how to build it, and what the verifier should say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..result import CheckResult
from .network import Fault, Network


@dataclass(frozen=True)
class Subject:
    """A function to verify, in the form of `verify_equivariance`.

    Args:
        func: function or module.
        irreps_in: one entry per input.
        irreps_out: one entry per output.
    """

    func: Callable[..., Any]
    irreps_in: Sequence[Any]
    irreps_out: Sequence[Any]


@dataclass(frozen=True)
class Mutant:
    """One fault that a verifier must find, or one control that it must not flag.

    Args:
        key: name in the catalogue, such as ``"M1"``.
        family: module of the catalogue it belongs to.
        title: what is done, in a few words.
        build: seed -> subject with the fault in it; None for entries that `run` tests.
        run: seed -> the check that tests it, for faults of the theorems and conventions.
        precedent: where it happened, or empty.
        control: True for a sound variant.
        found_by: check that is expected to find it.
        may_report: checks that may say PRECISION of a control, because it does lose digits there.
        without: checks that do not apply, such as "node_permutation" for a declared index dependence.
    """

    key: str
    family: str
    title: str
    build: Callable[[int], Subject] | None = None
    run: Callable[[int], CheckResult] | None = None
    precedent: str = ""
    control: bool = False
    found_by: str = ""
    may_report: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


def network_with(stage: str, fault: Fault, **options: Any) -> Callable[[int], Subject]:
    """Builder of the small network with one fault at a stage.

    Args:
        stage: one of `network.STAGES`.
        fault: function of the stage's value and the context.
        **options: further arguments of `Network`.

    Returns:
        seed -> subject.
    """
    return network_of(lambda seed: Network(seed, {stage: fault}, **options))


def network_of(make: Callable[[int], Network]) -> Callable[[int], Subject]:
    """Builder of a subject from a function that makes the network of a seed."""

    def build(seed: int) -> Subject:
        network = make(seed)
        return Subject(network, network.irreps_in, [network.irreps_out])

    return build
