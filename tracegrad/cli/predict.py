"""``tracegrad predict``."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from tracegrad.cli import Subparsers, add_command

EXAMPLES = """
tracegrad predict runs/mg/final.ckpt structure.cif --out predicted
tracegrad predict runs/mg/final.ckpt POSCAR --out predicted --form new
tracegrad predict runs/openmx/final.ckpt slab.xyz --overlap slab/overlaps.h5 --fermi -4.21 --out predicted
tracegrad bands predicted --out predicted-bands
"""


def register(subparsers: Subparsers) -> None:
    """Add the command to the main parser."""
    parser = add_command(
        subparsers,
        "predict",
        "Predict the Hamiltonian of a structure that ASE can read, and write it as a DeepH folder with "
        "prediction.json, which names the checkpoint, the cutoff, and the sources of overlap and Fermi level.",
        EXAMPLES,
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="final.ckpt of a run")
    parser.add_argument("structure", type=Path, metavar="STRUCTURE", help="cif, vasp, xyz, ... : whatever ASE reads")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make; new or empty")
    parser.add_argument("--form", choices=("legacy", "new"), default="legacy", help="DeepH form (default: legacy)")
    parser.add_argument(
        "--r-max", type=float, metavar="ANGSTROM", help="cutoff of the pairs (default: that of the training data)"
    )
    parser.add_argument(
        "--overlap",
        default="auto",
        metavar="auto|gaussian|none|PATH",
        help="S by analytic integrals of the bundled data's basis, none, or an overlaps.h5 or DeepH folder of the same "
        "atoms; auto is 'gaussian' for networks of the bundled data, else 'none'",
    )
    parser.add_argument("--fermi", type=float, metavar="EV", help="Fermi level (default: from the predicted H and S)")
    parser.add_argument("--index", type=int, default=-1, help="which structure of a file with several (default: last)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where the network runs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Predict as asked."""
    from tracegrad.prediction import Predictor, read_atoms, write_prediction

    atoms = read_atoms(options.structure, options.index)
    predictor = Predictor.load(options.checkpoint, options.device)
    started = time.perf_counter()
    structure = predictor(
        atoms,
        r_max=options.r_max,
        overlap=options.overlap,
        fermi_energy=options.fermi,
        name=options.structure.stem,
    )
    seconds = time.perf_counter() - started
    folder = write_prediction(structure, options.out, options.form)
    assert structure.hamiltonian is not None
    facts = dict(structure.metadata)
    if options.json:
        print(
            json.dumps(
                {
                    "folder": str(folder),
                    "form": options.form,
                    "atoms": structure.n_atoms,
                    "pairs": structure.hamiltonian.n_edges,
                    "spinful": structure.spinful,
                    "seconds": round(seconds, 3),
                    **facts,
                }
            )
        )
    elif not options.quiet:
        level = facts["fermi_energy_eV"]
        print(f"{structure.name}: {structure.n_atoms} atoms, {structure.hamiltonian.n_edges} pairs, {seconds:.1f} s")
        print(f"cutoff   {facts['cutoff_A']:.3f} Å")
        print(f"overlap  {facts['overlap_source']}")
        print(f"Fermi    {'' if level is None else f'{level:.4f} eV, '}{facts['fermi_source']}")
        print(f"written  {folder} ({options.form} DeepH form)")
    return 0
