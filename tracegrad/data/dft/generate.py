"""A set of structures: one engine process for each, finished ones kept, failed ones reported and left out.

Two forms on disk. ``deeph``: OUT/<name>/ is a DeepH folder with ``generation.json`` beside its matrices. ``compact``:
OUT/parts/<name>.h5 is a compact file of one structure and OUT/<KEY>.h5 the set made of them. Either appears under its
name when it is complete, so what is there is finished.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tracegrad.atomic import atomic_write
from tracegrad.data.bundle import bundle
from tracegrad.data.compact import open_compact, write_compact
from tracegrad.data.deeph_write import write_deeph
from tracegrad.data.dft.calculation import Calculation, Request, calculate
from tracegrad.data.dft.cp2k import OUTPUT_NAME, find_cp2k
from tracegrad.data.dft.spin_orbit import import_pyscf, source_note
from tracegrad.data.dft.systems import ELEMENTS, System
from tracegrad.data.folders import SPLIT_FILE, FolderSet, write_split
from tracegrad.data.splits import SUBSETS, Split
from tracegrad.errors import DataError

FORMS = ("deeph", "compact")
SPLIT_RULE = "as generated"
TWISTED = "test_twisted"
RECORD_NAME = "generation.json"
WORK_FOLDER = ".work"
FAILED_FOLDER = "failed"


@dataclass(frozen=True)
class Outcome:
    """What became of one structure.

    Args:
        name: Identifier.
        status: ``done``, ``kept`` (was finished before) or ``failed``.
        message: SCF cycles and seconds, or the reason of the failure.
    """

    name: str
    status: str
    message: str = ""


@dataclass
class Report:
    """Outcomes of a run, in the order in which the structures finished."""

    outcomes: list[Outcome] = field(default_factory=list)

    def names(self, status: str) -> list[str]:
        """Identifiers of the structures with a status."""
        return [outcome.name for outcome in self.outcomes if outcome.status == status]


def make_requests(
    key: str,
    count: int,
    first: int = 0,
    split: str | None = None,
    supercell: tuple[int, int] | None = None,
    twist: float | None = None,
) -> list[Request]:
    """Return the requests of a set, checked by building their geometries.

    Args:
        key: System.
        count: Number of structures.
        first: Index of the first one; the seed is base of the system + offset of the split + index.
        split: Split; train, or test_twisted with a twist, if None.
        supercell: Repeats in the plane.
        twist: Twist angle in degrees.

    Raises:
        DataError: If the values do not describe structures of the system.
    """
    if count < 1:
        raise DataError(f"expected --count of at least 1, found {count}")
    if supercell is not None and min(supercell) < 1:
        raise DataError(f"expected a --supercell of at least 1 1, found {supercell[0]} {supercell[1]}")
    chosen = split or ("train" if twist is None else TWISTED)
    if (chosen == TWISTED) != (twist is not None):
        raise DataError(
            f"expected --split {TWISTED} with --twist and with nothing else, found --split {chosen} "
            f"{'without one' if twist is None else f'and --twist {twist:g}'}: twisted structures are only tested"
        )
    requests = [Request(key, chosen, first + n, supercell, twist) for n in range(count)]
    for request in requests:
        request.atoms()
    return requests


def generate(
    requests: Sequence[Request],
    out: Path,
    form: str = "deeph",
    jobs: int = 1,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> Report:
    """Compute the structures that are not there yet.

    Args:
        requests: Structures of one system.
        out: Folder to write to; it is created.
        form: ``deeph`` or ``compact``.
        jobs: Structures at a time, each by an engine process with one thread.
        on_outcome: Called as each structure ends.

    Returns:
        What became of each structure.

    Raises:
        DataError: If the engine or PySCF is missing, or the folder holds other structures under the same names.
    """
    if form not in FORMS:
        raise DataError(f"expected a form out of {', '.join(FORMS)}, found {form!r}")
    if jobs < 1:
        raise DataError(f"expected --jobs of at least 1, found {jobs}")
    if form == "compact":
        _refuse_other_systems(out, requests[0].key)
    program = find_cp2k()
    if any(request.system.spin_orbit for request in requests):
        import_pyscf()
    out.mkdir(parents=True, exist_ok=True)
    report = Report()
    for outcome in _outcomes(requests, out, form, jobs, program):
        report.outcomes.append(outcome)
        if on_outcome is not None:
            on_outcome(outcome)
    with suppress(OSError):  # another command may still be at work there
        (out / WORK_FOLDER).rmdir()
    if form == "compact":
        _merge(out)
    else:
        _record_split(out)
    return report


def _outcomes(requests: Sequence[Request], out: Path, form: str, jobs: int, program: str) -> Iterator[Outcome]:
    waiting = []
    for request in requests:
        if _is_finished(request, out, form):
            yield Outcome(request.name, "kept")
        else:
            waiting.append(request)
    # Threads are enough: the engine's own processes do the work.
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        futures: list[Future[Outcome]] = [pool.submit(make_one, request, out, form, program) for request in waiting]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def make_one(request: Request, out: Path, form: str, program: str) -> Outcome:
    """Compute and store one structure; a failure is an outcome and leaves only the engine's output behind."""
    work = out / WORK_FOLDER / request.name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        calculation = calculate(request, program, work)
        _store(calculation, out, form, work)
    except DataError as error:
        log = out / FAILED_FOLDER / f"{request.name}.out"
        if (work / OUTPUT_NAME).exists():
            log.parent.mkdir(exist_ok=True)
            shutil.copyfile(work / OUTPUT_NAME, log)
        return Outcome(request.name, "failed", str(error))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    facts = calculation.facts
    return Outcome(request.name, "done", f"{facts['scf_cycles']} SCF cycles, {facts['cpu_seconds']:.0f} s")


def _store(calculation: Calculation, out: Path, form: str, work: Path) -> None:
    request, structure = calculation.request, calculation.structure()
    if form == "compact":
        part = _part(request, out)
        part.parent.mkdir(exist_ok=True)
        recorded = replace(structure, metadata={**structure.metadata, "request": asdict(request)})
        write_compact(part, [(request.subset, recorded)], set_facts(request.system))
        return
    folder = write_deeph(structure, work / request.name)
    record = {"request": asdict(request), "facts": calculation.facts, "set": set_facts(request.system)}
    with atomic_write(folder / RECORD_NAME) as temporary:
        temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    folder.rename(out / request.name)


def _is_finished(request: Request, out: Path, form: str) -> bool:
    record = out / request.name / RECORD_NAME if form == "deeph" else _part(request, out)
    if not record.exists():
        if form == "deeph" and record.parent.exists():
            raise DataError(f"{record.parent} was not made by this command (no {RECORD_NAME}); give another --out")
        return False
    if form == "deeph":
        found = _read_request(record)
    else:
        found = open_compact(record).read(request.name).metadata["request"]
    expected = json.loads(json.dumps(asdict(request)))
    if found != expected:
        raise DataError(
            f"{record} holds another structure of that name: expected {expected}, found {found}; give another --out"
        )
    return True


def _read_request(record: Path) -> dict[str, Any]:
    """What was asked for when a stored structure was computed."""
    try:
        found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))["request"]
        Request(found["key"], found["split"], found["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{record}: expected the request of a generated structure, found none ({type(error).__name__}: {error}); "
            "remove its folder to compute it anew"
        ) from None
    return found


def _part(request: Request, out: Path) -> Path:
    return out / "parts" / f"{request.name}.h5"


def _refuse_other_systems(out: Path, key: str) -> None:
    """The set is one file, so that parts of another system could not be merged after all the work."""
    for part in sorted((out / "parts").glob("*.h5")):
        found = open_compact(part).manifest.get("key")
        if found != key:
            raise DataError(f"{part}: expected a structure of {key}, found one of {found}; give another --out")


def _merge(out: Path) -> None:
    parts = sorted((out / "parts").glob("*.h5"))
    if parts:
        bundle(parts, out)


def _record_split(out: Path) -> None:
    """Write the split file of structures generated for several subsets; those of one are split when they are loaded."""
    if (out / SPLIT_FILE).exists() and not _is_ours(out / SPLIT_FILE):
        return
    found = [_read_request(path) for path in sorted(out.glob(f"*/{RECORD_NAME}"))]
    requests = [Request(facts["key"], facts["split"], facts["index"]) for facts in found]
    split: Split = {subset: tuple(r.name for r in requests if r.subset == subset) for subset in SUBSETS}
    if sum(bool(split[subset]) for subset in ("train", "val", "test")) > 1:
        write_split(FolderSet(out, {request.name: request.name for request in requests}, split, SPLIT_RULE))


def _is_ours(split_file: Path) -> bool:
    """Whether a split file was written here; its structures need not be there any more."""
    try:
        return bool(json.loads(split_file.read_text(encoding="utf-8"))["rule"] == SPLIT_RULE)
    except (ValueError, KeyError, TypeError):
        return False


def set_facts(system: System) -> dict[str, Any]:
    """Return what holds for every structure of a system: engine, functional, basis, cutoffs, conventions, licence."""
    potentials = [f"{ELEMENTS[symbol].potential} ({symbol})" for symbol in system.symbols]
    facts: dict[str, Any] = {
        "key": system.key,
        "system": system.title,
        "engine": "CP2K",
        "functional": "PBE",
        "basis": ", ".join(f"{ELEMENTS[symbol].basis} ({symbol})" for symbol in system.symbols),
        "potentials": ", ".join(potentials),
        "cutoff_Ry": system.cutoff,
        "rel_cutoff_Ry": system.rel_cutoff,
        "eps_default": 1e-10,
        "eps_scf": 1e-6,
        "smearing": "Fermi-Dirac, 300 K",
        "k_density": f"{system.k_density} points per axis of the primitive cell",
        "r_cut": system.r_cut,
        "vacuum_alignment": "H <- H - V_vac*S, V_vac = plane average of the Hartree potential in mid-vacuum",
        "licence": "CC0-1.0",
    }
    if system.spin_orbit:
        facts["spin_orbit_source"] = source_note(system.symbols)
    return facts
