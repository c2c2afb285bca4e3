"""State shared by the checks of one run: random streams, base outputs, measured round-off, and the judgement."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from .group import Elements, haar
from .measure import Deviation, Jitter, Outputs, deviations, jitter_of, rms, zero_floor
from .result import BlockError, CheckResult, Verdict, worst
from .subject import State, Subject
from .tolerances import (
    ILL_CONDITIONED,
    JITTER_DRAWS,
    RERUN_FACTOR,
    ZERO_FACTOR,
    bands,
    block_tolerances,
    block_verdict,
    jumps,
    reading_of_ratio,
    repeats,
    static_tolerance,
)

JUMP = "discontinuous at the given input (a 1-ulp change moves it by its size): give inputs without ties or edges"

Pair = tuple[Outputs, Outputs]
"""The two sides of an identity, for one state: left f(gx), right D f(x)."""

SidesOf = Callable[[Subject, State], Pair]
"""Both sides of the identity of one trial, at a state of a subject (of any precision)."""


class NotApplicable(Exception):
    """A check says that it has nothing to do for this subject; the message is the reason."""


@dataclass
class Context:
    """One run on one subject.

    Args:
        subject: what is verified.
        seed: seed of every random stream; each check has its own, so that leaving one out changes no other.
        trials: i.i.d. trials of the rotation check.
        tol: relative tolerance of all blocks, or None for the policy.
        search: examples of the adversarial search.
        allow_zero: irreps of outputs that are zero by symmetry.
        budget_mev: error in meV that an approximate model may have.
        parity: False for a model that claims rotations alone: no element then holds the inversion.
        cases: check -> its worst (state, element), where a counterexample starts.
    """

    subject: Subject
    seed: int = 0
    trials: int = 64
    tol: float | None = None
    search: int = 32
    allow_zero: tuple[str, ...] = ()
    budget_mev: float | None = None
    parity: bool = True
    cases: dict[str, tuple[State, Elements]] = field(default_factory=dict)

    def rng(self, name: str) -> np.random.Generator:
        """Random stream of a check."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def elements(self, quaternions: np.ndarray, inversion: np.ndarray | bool) -> Elements:
        """Rotations, those marked followed by the inversion where the model claims parity."""
        return Elements.of(quaternions, inversion if self.parity else False)

    @cached_property
    def states(self) -> list[State]:
        """The i.i.d. base states of the run."""
        return self.subject.states(self.trials, self.rng("states"))

    @cached_property
    def base(self) -> Outputs:
        """Outputs at the base states; one evaluation when there is one given state."""
        if self.subject.fixed:
            once = self.subject.evaluate(self.states[:1])
            return [column * len(self.states) for column in once]
        return self.subject.evaluate(self.states)

    def first(self, n: int) -> tuple[list[State], Outputs]:
        """The first n base states and their outputs."""
        return self.states[:n], [column[:n] for column in self.base]

    @cached_property
    def finite(self) -> bool:
        """True when every base output is finite."""
        return all(bool(np.isfinite(trial).all()) for column in self.base for trial in column)

    @cached_property
    def repeat_error(self) -> float:
        """Largest relative change when the same input is evaluated again: zero for deterministic code."""
        states, base = self.first(2)
        again = self.subject.evaluate([*states, *states])
        error = 0.0
        for spec, left, right in zip(self.subject.outputs, again, base, strict=True):
            with np.errstate(invalid="ignore"):
                deviation = deviations(left, [*right, *right], spec.law)
            same = all(np.array_equal(x, y, equal_nan=True) for x, y in zip(left, [*right, *right], strict=True))
            error = max(error, 0.0 if same else float(np.nan_to_num(deviation.error, nan=np.inf).max()))
        return error

    @cached_property
    def repeatable(self) -> bool:
        """True when two calls differ by no more than the order of the sums: not at all on a CPU."""
        return repeats(self.repeat_error, self.device, self.subject.dtype)

    @property
    def device(self) -> str:
        """Kind of device that holds the inputs."""
        return self.subject.leaves(self.states[0])[0].value.device.type

    @cached_property
    def jitter(self) -> list[Jitter]:
        """Round-off of every block; for stochastic code only the last digit, so that noise buys no tolerance."""
        eps = bands(self.subject.dtype).eps
        draws = min(JITTER_DRAWS, len(self.states))
        states, base = self.first(draws)
        if not self.repeatable:
            return [
                jitter_of(column, column, spec.law, eps)
                for spec, column in zip(self.subject.outputs, base, strict=True)
            ]
        repeats = -(-JITTER_DRAWS // draws)
        rng = self.rng("jitter")
        noisy = self.subject.evaluate([self.subject.jittered(s, rng) for _ in range(repeats) for s in states])
        return [
            jitter_of(column * repeats, other, spec.law, eps)
            for spec, column, other in zip(self.subject.outputs, base, noisy, strict=True)
        ]

    @cached_property
    def floors(self) -> list[np.ndarray]:
        """Size of every output's blocks up to which they are zero."""
        inputs = [leaf.value.detach().to("cpu", torch.float64).numpy() for leaf in self.subject.leaves(self.states[0])]
        size = max(rms(values) for values in [*inputs, *(np.concatenate(column) for column in self.base)])
        return [zero_floor(jitter, size, bands(self.subject.dtype).eps) for jitter in self.jitter]

    @cached_property
    def zero_blocks(self) -> list[tuple[str, str]]:
        """(label, irrep) of the output blocks that are zero on all base states."""
        rows = zip(self._sizes(), self.dead.tolist(), strict=True)
        return [(label, irrep) for (label, irrep, _), dead in rows if dead]

    @cached_property
    def dead(self) -> np.ndarray:
        """True for the blocks, output after output, that are zero on all base states."""
        return np.array([size for _, _, size in self._sizes()]) <= np.concatenate(self.floors)

    @cached_property
    def jumping_blocks(self) -> list[str]:
        """Labels of the output blocks that are not zero and that a 1-ulp change of the inputs moves by their size."""
        jumps = np.concatenate([jitter.absolute for jitter in self.jitter])
        rows = zip(self._sizes(), self.dead, jumps, strict=True)
        return [label for (label, _, size), dead, jump in rows if not dead and size <= ZERO_FACTOR * jump]

    def _sizes(self) -> list[tuple[str, str, float]]:
        """(label, irrep, RMS over the base states) of every output block."""
        found = []
        for spec, column in zip(self.subject.outputs, self.base, strict=True):
            rows = np.concatenate(column)
            blocks = spec.law.blocks_of(rows.shape[-1])
            found += [(f"{spec.name} {b.name}", b.name, rms(rows[:, b.start : b.stop])) for b in blocks]
        return found

    def local_jitter(self, states: Sequence[State], draws: int, largest: bool = False) -> list[Jitter]:
        """Round-off of every output's blocks: median over the draws (or the largest), the largest over the states."""
        eps, rng = bands(self.subject.dtype).eps, self.rng("local jitter")
        found = []
        for state in states:
            base = self.subject.evaluate([state])
            noisy = self.subject.evaluate([self.subject.jittered(state, rng) for _ in range(draws)])
            columns = zip(self.subject.outputs, base, noisy, strict=True)
            found.append([jitter_of(column * draws, other, spec.law, eps, largest) for spec, column, other in columns])
        return [
            Jitter(np.max([j.absolute for j in same], axis=0), np.max([j.relative for j in same], axis=0))
            for same in zip(*found, strict=True)
        ]

    def orbit_jitter(self, state: State) -> list[Jitter]:
        """Round-off at a state in generic orientations: an equivariant map is as steep in one as in any other."""
        turned = self.subject.moved([state] * 2, Elements.of(haar(2, self.rng("orientation"))))
        return self.local_jitter(turned, JITTER_DRAWS, largest=True)

    @property
    def static(self) -> float:
        """Static term of the tolerance."""
        return static_tolerance(self.subject.dtype, self.subject.lmax, self.subject.depth)

    def tolerances(self, jitter: Sequence[Jitter], factor: float = 1.0, extra: float = 0.0) -> list[np.ndarray]:
        """Tolerance of every block of every output."""
        if self.tol is not None:
            return [np.full(len(j.relative), self.tol) for j in jitter]
        return [block_tolerances(self.static, j.relative, self.subject.dtype, factor, extra) for j in jitter]

    def loosest(self, factor: float = 1.0) -> float:
        """Largest tolerance of the blocks that are not zero, for an identity that mixes them."""
        limits = np.concatenate(self.tolerances(self.jitter, factor))
        return float(np.max(limits[~self.dead], initial=self.static * factor if self.tol is None else self.tol))

    def judge(
        self,
        name: str,
        sides: Pair,
        *,
        factor: float = 1.0,
        extra: float = 0.0,
        states: Sequence[State] | None = None,
        sides_of: Callable[[int], SidesOf] | None = None,
    ) -> CheckResult:
        """Verdict of an identity left = right that should hold on every trial.

        Args:
            name: name of the check.
            sides: outputs of both sides, trial by trial.
            factor: factor on the tolerance.
            extra: term added to the tolerance.
            states: states of the trials, for the second look at a SUSPECT and at float32.
            sides_of: trial -> function that evaluates both sides again.

        Returns:
            The check with its block table; the counterexample is added later.
        """
        if not self.finite:
            return CheckResult(name, Verdict.VACUOUS, float("inf"), 0.0, "the outputs are not finite", len(sides[0][0]))
        found = [
            deviations(left, right, spec.law, floor)
            for spec, left, right, floor in zip(self.subject.outputs, *sides, self.floors, strict=True)
        ]
        limits = self.tolerances(self.jitter, factor, extra)
        blocks = self._table(found, limits)
        details: dict[str, Any] = {"failed_trials": failed_trials(found, limits), "noise_factor": factor}
        verdict = worst(block_verdict(b, self.subject.dtype) for b in blocks)
        if verdict is Verdict.SUSPECT and states is not None and self.tol is None:
            blocks, verdict = self._second_look(blocks, states, factor, extra, details)
        if verdict is not Verdict.PASS and states is not None and sides_of is not None:
            details.update(self._precision_evidence(blocks, states, sides_of))
        ill = [b.irrep for b in blocks if b.jitter > ILL_CONDITIONED * bands(self.subject.dtype).eps and not b.zero]
        if ill:
            details["ill_conditioned"] = ill
        return summarise(name, verdict, blocks, len(sides[0][0]), details)

    def _table(self, found: Sequence[Deviation], limits: Sequence[np.ndarray]) -> list[BlockError]:
        rows = []
        for spec, deviation, limit, jitter in zip(self.subject.outputs, found, limits, self.jitter, strict=True):
            trial = np.argmax(np.nan_to_num(deviation.error, nan=np.inf, posinf=np.inf), axis=0)
            width = deviation.error.shape[1]
            laws = spec.law.blocks or spec.law.blocks_of(1)
            for b in range(width):
                k = int(trial[b])
                rows.append(deviation.block(spec.name, laws[b].name, b, k, jitter, float(limit[b])))
        return rows

    def _second_look(
        self, blocks: list[BlockError], states: Sequence[State], factor: float, extra: float, details: dict[str, Any]
    ) -> tuple[list[BlockError], Verdict]:
        """Judges SUSPECT blocks again with four times the jitter draws, at the states where they were worst."""
        trials = sorted({b.trial for b in blocks if b.ratio > 1 and not b.zero})[:4]
        jitter = self.local_jitter([states[t] for t in trials], RERUN_FACTOR * JITTER_DRAWS)
        limits = np.concatenate(self.tolerances(jitter, factor, extra))
        merged = []
        for block, limit in zip(blocks, limits, strict=True):
            values = {**block.__dict__, "tolerance": max(block.tolerance, float(limit))}
            merged.append(BlockError(**values) if block.ratio > 1 else block)
        verdict = worst(block_verdict(b, self.subject.dtype) for b in merged)
        details["second_look"] = {"draws": RERUN_FACTOR * JITTER_DRAWS, "trials": trials, "verdict": verdict.value}
        return merged, verdict

    def _precision_evidence(
        self, blocks: Sequence[BlockError], states: Sequence[State], sides_of: Callable[[int], SidesOf]
    ) -> dict[str, Any]:
        """Error of the worst trial in float32 over that in float64."""
        block = max((b for b in blocks if not b.zero), key=lambda b: b.ratio, default=None)
        if block is None or self.subject.dtype is not torch.float64 or not np.isfinite(block.error):
            return {}
        other = self.subject.in_dtype(torch.float32)
        if other is None:
            return {}
        try:
            left, right = sides_of(block.trial)(other, other.cast(states[block.trial]))
        except Exception:  # a model may refuse the other precision, and evidence is no verdict
            return {}
        index = next(i for i, spec in enumerate(self.subject.outputs) if spec.name == block.output)
        error = float(deviations(left[index], right[index], self.subject.outputs[index].law).error[0, block.block])
        ratio = error / block.error if block.error else np.inf
        return {"float32_error": error, "precision_ratio": ratio, "precision_reading": reading_of_ratio(ratio)}


def failed_trials(found: Sequence[Deviation], limits: Sequence[np.ndarray]) -> int:
    """Number of trials in which some live block is above its tolerance."""
    bad: Any = False
    for deviation, limit in zip(found, limits, strict=True):
        bad = bad | ((deviation.error > limit) & ~deviation.zero).any(axis=1)
    return int(np.sum(bad))


def summarise(
    name: str, verdict: Verdict, blocks: list[BlockError], trials: int, details: dict[str, Any]
) -> CheckResult:
    """A check from its block table: figures of the block nearest to (or farthest above) its tolerance."""
    live = [b for b in blocks if not b.zero]
    if not live:
        message = "every output block is zero: nothing was tested"
        return CheckResult(name, Verdict.VACUOUS, 0.0, 0.0, message, trials, blocks, None, details)
    continuous = [b for b in live if not jumps(b)]
    block = max(continuous if verdict.severity > Verdict.SUSPECT.severity else live, key=lambda b: b.ratio)
    message = ""
    if verdict is Verdict.SUSPECT and jumps(block):
        message = f"{block.output} {block.irrep}: {JUMP}"
    elif verdict is not Verdict.PASS:
        message = f"{block.output} {block.irrep}: {details.get('failed_trials', 0)} of {trials} trials fail"
        if "precision_reading" in details:
            message += f"; float32/float64 ratio {details['precision_ratio']:.1e}: {details['precision_reading']}"
    return CheckResult(name, verdict, block.error, block.tolerance, message, trials, blocks, None, details)
