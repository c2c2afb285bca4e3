"""Packing a set for the package: KEY.h5 in the compact form and KEY.json, its manifest with the checksum.

    python -m tracegrad.data.bundle MADE.h5 [MORE.h5 ...] --out tracegrad/data/bundled

Several files of one system are merged. Structures added to a set later go into a second file, ``--name BT_twisted``,
which ``load_dataset`` reads with the first, so that the first need not be stored again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracegrad.atomic import atomic_write
from tracegrad.data.compact import (
    HAMILTONIAN_QUANTUM,
    HARTREE_EV,
    OVERLAP_QUANTUM,
    CompactFile,
    open_compact,
    plain_value,
    write_compact,
)
from tracegrad.data.structure import Structure, orbital_table
from tracegrad.errors import DataError, TracegradError

NOT_PUBLISHED = (
    "Computed for tracegrad; this is NOT the published database of the same key: smaller cells, another engine and "
    "basis, idealised geometries."
)
DROPPED = {"counts", "energy_unit", "overlap_note", "pair_convention", "provenance", "orbitals", "spin_orbit"}


def bundle(sources: Sequence[str | Path], folder: str | Path, name: str | None = None) -> Path:
    """Merge compact files of one system into FOLDER/KEY.h5 and write FOLDER/KEY.json.

    Args:
        sources: compact files; the first one's facts about engine and settings are kept.
        folder: where the two files go.
        name: another name of the two files, KEY_something for a second part of the set.

    Returns:
        The path of the .h5 file.

    Raises:
        DataError: if the files disagree in key, orbitals or spin, or name a structure twice.
    """
    files = [open_compact(source) for source in sources]
    first = files[0]
    for other in files[1:]:
        if (other.manifest.get("key"), other.orbitals, other.spinful) != (
            first.manifest.get("key"),
            first.orbitals,
            first.spinful,
        ):
            raise DataError(f"{other.path} and {first.path} are not of one system (key, orbitals, spin)")
    key = str(first.manifest.get("key", first.path.stem))
    if name is not None and name != key and not name.startswith(f"{key}_"):
        raise DataError(f"a part of {key} is named {key} or {key}_something, not {name!r}")
    target = Path(folder) / f"{name or key}.h5"
    manifest = _manifest(files)
    write_compact(target, _structures(files), manifest)
    sidecar = {**manifest, "sha256": hashlib.sha256(target.read_bytes()).hexdigest(), "bytes": target.stat().st_size}
    with atomic_write(target.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(sidecar, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return target


def _structures(files: Sequence[CompactFile]) -> Iterator[tuple[str, Structure]]:
    for file in files:
        for subset, names in file.subsets.items():
            for name in names:
                yield subset, file.read(name)


def _manifest(files: Sequence[CompactFile]) -> dict[str, Any]:
    first = files[0]
    facts: dict[str, Any] = {k: plain_value(v) for k, v in first.manifest.items() if k not in DROPPED}
    counts = {s: sum(len(file.subsets[s]) for file in files) for s in first.subsets}
    seeds: dict[str, list[int]] = {}
    meshes: set[str] = set()
    for subset, structure in _structures(files):
        seeds.setdefault(subset, []).append(int(structure.metadata.get("seed", -1)))
        meshes.add("x".join(str(k) for k in structure.metadata.get("kmesh", [])))
    half_meV = HAMILTONIAN_QUANTUM * HARTREE_EV * 500
    return {
        "key": facts.pop("key", first.path.stem),
        "note": NOT_PUBLISHED,
        "licence": facts.pop("licence", "CC0-1.0"),
        **facts,
        "kmeshes": sorted(meshes),
        "seeds": {subset: sorted(values) for subset, values in seeds.items()},
        "orbitals": orbital_table(first.orbitals),
        "spinful": first.spinful,
        "counts": counts,
        "quantisation": {
            "hamiltonian": f"multiples of {HAMILTONIAN_QUANTUM:g} hartree, error at most {half_meV:.4f} meV",
            "spin_orbit": "the same, for each of W_x, W_y, W_z" if first.spinful else "none",
            "overlap": f"multiples of {OVERLAP_QUANTUM:g}, error at most {OVERLAP_QUANTUM / 2:g}; not in train",
            "hamiltonian_max_error_eV": HAMILTONIAN_QUANTUM * HARTREE_EV / 2,
            "overlap_max_error": OVERLAP_QUANTUM / 2,
        },
    }


def verify_bundle(path: str | Path) -> Mapping[str, Any]:
    """Read KEY.json and compare the checksum of KEY.h5 with it.

    Raises:
        DataError: if the manifest is missing or the checksum differs.
    """
    path = Path(path)
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        raise DataError(f"{sidecar}: manifest not found; install the package again")
    manifest: dict[str, Any] = json.loads(sidecar.read_text(encoding="utf-8"))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != manifest.get("sha256"):
        raise DataError(f"{path}: checksum {found} differs from the manifest's {manifest.get('sha256')}; install again")
    return manifest


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the packing tool; exit code 2 for wrong input."""
    parser = argparse.ArgumentParser(prog="python -m tracegrad.data.bundle", description=__doc__)
    parser.add_argument("sources", nargs="+", help="compact files of one system")
    parser.add_argument("--out", default=str(Path(__file__).parent / "bundled"), help="folder of the bundled sets")
    parser.add_argument("--name", help="KEY_something for a second part of a set (default: KEY)")
    options = parser.parse_args(arguments)
    try:
        target = bundle(options.sources, options.out, options.name)
    except TracegradError as error:
        sys.stderr.write(f"tracegrad.data.bundle: error: {error}\n")
        return 2
    sys.stdout.write(f"{target}: {target.stat().st_size / 1e6:.2f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
