"""``tracegrad predict``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tracegrad.cli import Subparsers, add_command, print_json

LINE_SECONDS = 30.0  # between two lines where there is no terminal

EXAMPLES = """
tracegrad predict runs/mg/final.ckpt structure.cif --out predicted
tracegrad predict runs/mg/final.ckpt POSCAR --out predicted --form new
tracegrad predict runs/openmx/final.ckpt slab.xyz --overlap slab/overlaps.h5 --fermi -4.21 --out predicted
tracegrad predict runs/mg/final.ckpt twisted.vasp --form new --overlap none --out twisted
tracegrad bands predicted --out predicted-bands
"""


def register(subparsers: Subparsers) -> None:
    """Add the command to the main parser."""
    parser = add_command(
        subparsers,
        "predict",
        "Predict the Hamiltonian of a structure, and write it as a DeepH folder with "
        "prediction.json, which names the checkpoint, the cutoff, and the sources of overlap and Fermi level.",
        EXAMPLES,
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="final.ckpt of a run")
    parser.add_argument(
        "structure", type=Path, metavar="STRUCTURE", help="a file of ASE (cif, vasp, xyz, ...) or a DeepH folder"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make; new or empty")
    parser.add_argument("--form", choices=("legacy", "new"), default="legacy", help="DeepH form (default: legacy)")
    parser.add_argument(
        "--r-max",
        type=float,
        metavar="ANGSTROM",
        help="longest pair that is written (default: that of the training data)",
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
    parser.add_argument(
        "--chunk-edges",
        type=int,
        metavar="N",
        help="directed edges that are predicted at a time, 0 for all at once (default: 20000 above 100000 edges); "
        "memory is then that of a chunk, and the matrices are written chunk by chunk",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Predict as asked."""
    from tracegrad.prediction import Predictor, predict_to_folder, read_atoms

    atoms = read_atoms(options.structure, options.index)
    predictor = Predictor.load(options.checkpoint, options.device)
    started = time.perf_counter()
    with chunk_display(options.structure.stem, options.quiet or options.json) as progress:
        facts = predict_to_folder(
            predictor,
            atoms,
            options.out,
            options.form,
            r_max=options.r_max,
            overlap=options.overlap,
            fermi_energy=options.fermi,
            name=options.structure.stem,
            chunk_edges=options.chunk_edges,
            progress=progress,
        )
    seconds = time.perf_counter() - started
    if facts["missing_neighbours"]:
        print(
            f"warning: {facts['missing_neighbours']} pairs within the cutoff of the training data are not in the "
            "overlap; the network was trained with such neighbours, and without them its numbers are others",
            file=sys.stderr,
        )
    if options.json:
        record = {
            "folder": str(options.out),
            "form": options.form,
            "atoms": len(atoms),
            "spinful": predictor.data.spinful,
            "seconds": round(seconds, 3),
            **facts,
        }
        print_json(record)
    elif not options.quiet:
        level = facts["fermi_energy_eV"]
        print(f"{options.structure.stem}: {len(atoms)} atoms, {facts['pairs']} pairs, {seconds:.1f} s")
        print(f"cutoff   {facts['cutoff_A']:.3f} Å")
        print(f"overlap  {facts['overlap_source']}")
        print(f"Fermi    {'' if level is None else f'{level:.4f} eV, '}{facts['fermi_source']}")
        print(f"written  {options.out} ({options.form} DeepH form)")
    return 0


@contextmanager
def chunk_display(title: str, hidden: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar of the chunks that are done, on standard error; a line now and then where there is no terminal.

    Args:
        title: of the bar.
        hidden: show nothing.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True, markup=False, emoji=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed} of {task.total} chunks"),
    )
    bar = Progress(*columns, TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(), console=console)
    task = bar.add_task(title, total=None)
    shown = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal shown
        if hidden:
            return
        if console.is_terminal:
            bar.start()
            bar.update(task, completed=done, total=total)
        elif time.monotonic() - shown >= LINE_SECONDS:
            shown = time.monotonic()
            console.print(f"{title}  {done} of {total} chunks", highlight=False, soft_wrap=True)

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()
