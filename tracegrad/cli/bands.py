"""``tracegrad bands``."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracegrad.cli import Subparsers, add_command, print_json
from tracegrad.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from tracegrad.data import Structure

EXAMPLES = """
tracegrad bands MG/MG_test_000 --checkpoint runs/mg/final.ckpt --out bands
tracegrad bands dft_folder --predicted predicted_folder --out bands
tracegrad bands predicted_folder --out bands --path GKMG --points 90 --dos
"""


def register(subparsers: Subparsers) -> None:
    """Add the command to the main parser."""
    parser = add_command(
        subparsers,
        "bands",
        "Band structure along a path of the lattice, from the blocks of a structure; with a prediction beside it also "
        "the errors of energies, states and gap. Leaves bands_NAME.png and bands_NAME.json.",
        EXAMPLES,
    )
    parser.add_argument(
        "structure", metavar="FOLDER|KEY/NAME", help="DeepH folder with H and S, or a bundled structure: MG/MG_test_000"
    )
    parser.add_argument("--checkpoint", type=Path, metavar="CHECKPOINT", help="predict the structure with this network")
    parser.add_argument("--predicted", type=Path, metavar="FOLDER", help="DeepH folder with the predicted H")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the files; made if missing")
    parser.add_argument("--path", metavar="POINTS", help="special points, e.g. GKMG (default: ASE's path)")
    parser.add_argument("--points", type=int, default=60, help="k-points along the path (default: 60)")
    parser.add_argument("--bands", type=int, help="only so many bands near the Fermi level, with sparse matrices")
    parser.add_argument("--dos", action="store_true", help="add the density of states on a mesh")
    parser.add_argument(
        "--smallest-overlap", type=float, metavar="X", help="smallest eigenvalue of S(k) that is kept (default: 1e-5)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compute, draw and write as asked."""
    from tracegrad import physics
    from tracegrad.physics.eigen import DENSE_LIMIT, SMALLEST_OVERLAP

    if options.points < 2:
        raise DataError(f"--points: expected at least 2, found {options.points}")
    if options.smallest_overlap is not None and not 0 <= options.smallest_overlap < float("inf"):
        raise DataError(f"--smallest-overlap: expected a finite number of at least 0, found {options.smallest_overlap}")
    if options.checkpoint and options.predicted:
        raise DataError("expected --checkpoint or --predicted, found both")
    smallest = SMALLEST_OVERLAP if options.smallest_overlap is None else options.smallest_overlap
    if options.bands is not None and options.dos:
        raise DataError("expected --bands or --dos, found both: the density of states needs all energies")
    structure, dataset = _structure(options.structure)
    size = int(structure.n_orbitals.sum()) * (2 if structure.spinful else 1)
    if options.dos and size > DENSE_LIMIT:
        raise DataError(
            f"--dos: expected at most {DENSE_LIMIT:,} orbitals (with spin), since all energies are computed at every "
            f"point of a mesh, found {size:,}; leave it out"
        )
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always", physics.IllConditionedOverlap)
        route = physics.k_path(structure, options.path, options.points)
        own = physics.band_structure(structure, route, bands=options.bands, smallest_overlap=smallest)
        dft: Any = own
        predicted: dict[str, Any] = {}
        extra: dict[str, Any] = {"projected": own.projected, "smallest_overlap": _finite(own.smallest_overlap)}
        other = _prediction(options, structure)
        if other is not None:
            label, guess = other
            predicted[label] = physics.band_structure(guess, route, bands=options.bands, smallest_overlap=smallest)
            assert guess.hamiltonian is not None
            if options.bands is None and size <= DENSE_LIMIT and physics.occupation_is_known(structure):
                extra["metrics"] = physics.compare_hamiltonians(guess.hamiltonian, structure, smallest_overlap=smallest)
            else:
                extra["metrics"] = physics.gauge_errors(guess.hamiltonian, structure)
        elif structure.metadata.get("predicted"):
            dft, predicted = None, {"predicted": own}
        if options.dos:
            extra["dos"] = _densities(structure, other, own.fermi_energy, smallest)
    for line in dict.fromkeys(str(remark.message) for remark in remarks):
        print(f"tracegrad: warning: {line}", file=sys.stderr)
    files = _write(options.out, dataset, structure.name, dft, predicted, extra)
    if options.json:
        print_json({"files": [str(path) for path in files], **extra})
    elif not options.quiet:
        print("\n".join([*_lines(own, extra), *(f"written {path}" for path in files)]))
    return 0


def _structure(text: str) -> tuple[Structure, str]:
    """The structure asked for, and where it came from."""
    from tracegrad.data import DATABASES, load_dataset, read_deeph
    from tracegrad.prediction import PREDICTION_FILE

    key, _, name = text.partition("/")
    if key in DATABASES and name:
        dataset = load_dataset(key)
        known = {n: subset for subset in dataset.subsets.values() for n in subset.names}
        if name in known:
            return known[name].read(name), key
        if not Path(text).exists():
            raise DataError(f"{key} has no structure {name!r}. {did_you_mean(name, known)[:300]}")
    structure = read_deeph(Path(text))
    marked = {**structure.metadata, "predicted": (Path(text) / PREDICTION_FILE).is_file()}
    return type(structure)(**{**structure.fields(), "metadata": marked}), structure.name


def _prediction(options: argparse.Namespace, structure: Structure) -> tuple[str, Structure] | None:
    """Label and structure of the prediction: its Hamiltonian on the atoms and with the overlap of the first one."""
    from tracegrad.data import read_deeph
    from tracegrad.data.matching import atom_order, renumbered

    if not (options.checkpoint or options.predicted):
        return None
    label = "predicted"
    if options.checkpoint:
        from tracegrad.prediction import predict_like

        label, hamiltonian = predict_like(structure, options.checkpoint)
    else:
        found = read_deeph(options.predicted)
        if found.hamiltonian is None:
            raise DataError(f"{options.predicted}: holds no Hamiltonian")
        hamiltonian = renumbered(found.hamiltonian, atom_order(found, structure, options.predicted))
    return label, type(structure)(**{**structure.fields(), "hamiltonian": hamiltonian}).validate(
        str(options.predicted or "")
    )


def _densities(
    structure: Structure, other: tuple[str, Structure] | None, fermi: float | None, smallest: float
) -> dict[str, Any]:
    """Densities of states on one grid of energies, on a mesh twice as dense as that of the calculations."""
    import numpy as np

    from tracegrad import physics
    from tracegrad.physics.bands import MESH_LENGTH

    points = physics.k_mesh(physics.mesh_for(structure, 2 * MESH_LENGTH))
    named = {"dft": structure, **({other[0]: other[1]} if other else {})}
    energies = {name: physics.energies_at(each, points, smallest_overlap=smallest) for name, each in named.items()}
    centre = float(np.median(energies["dft"])) if fermi is None else fermi
    grid = np.linspace(centre - 6.0, centre + 6.0, 481)
    density = {
        name: physics.density_of_states(values, grid, 0.05, structure.spinful).tolist()
        for name, values in energies.items()
    }
    return {"energy_eV": grid.tolist(), "width_eV": 0.05, "k_points": len(points), "density": density}


def _write(
    folder: Path, dataset: str, name: str, dft: Any, predicted: dict[str, Any], extra: dict[str, Any]
) -> list[Path]:
    from tracegrad import physics

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made ({error.strerror}); give another --out") from None
    stem = f"bands_{name or 'structure'}"
    physics.write_bands(folder / f"{stem}.json", dataset, name, dft, predicted, extra)
    physics.draw_bands(folder / f"{stem}.png", f"{dataset}, {name}", dft, predicted, extra.get("dos"))
    return [folder / f"{stem}.json", folder / f"{stem}.png"]


def _lines(bands: Any, extra: dict[str, Any]) -> list[str]:
    labels = "-".join(label for _, label in bands.path.ticks)
    lines = [f"{len(bands.path.distance)} k-points along {labels}, {bands.energies.shape[1]} bands"]
    metrics = extra.get("metrics", {})
    units = {"gap_dft": "eV", "gap_predicted": "eV", "occupied": "", "k_points": ""}
    for name, value in metrics.items():
        unit = units.get(name, "" if name.endswith("similarity") else "meV")
        lines.append(f"  {name:28} {value:.6g} {unit}".rstrip())
    return lines


def _finite(value: float) -> float | None:
    return value if value == value else None
