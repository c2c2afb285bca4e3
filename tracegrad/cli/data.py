"""``tracegrad data``: list, fetch, generate, convert and check data."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tracegrad.cli import Subparsers, add_command, examples_text, print_json
from tracegrad.errors import DataError

EXAMPLES = """
tracegrad data list                                   the six databases, bundled and published
tracegrad data check BT                               every bundled structure against what must hold
tracegrad data check my_folders/ --json               the same for one's own DeepH folders
tracegrad data fetch MG                               download the published database
tracegrad data convert BB bb_folders --to deeph-new   bundled data as DeepH folders
tracegrad data generate --system MG --count 10 --seed 0 --out more_MG
"""


def register(subparsers: Subparsers) -> None:
    """Add the command and its actions to the main parser."""
    parser = add_command(subparsers, "data", "List, fetch, generate, convert and check DFT data.", EXAMPLES)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    action = _add(
        actions, "list", "The six databases: what they are, and how many structures there are.", "tracegrad data list"
    )
    action.set_defaults(run=run_list)

    action = _add(
        actions,
        "fetch",
        "Download a published database (resumable), check, unpack and split it.",
        """
        tracegrad data fetch MG
        tracegrad data fetch BT --mirror https://server/folder --out /data/BT
        """,
    )
    action.add_argument("key", help="MG, MM, BG, BB, BT or BS")
    action.add_argument("--out", metavar="DIR", help="folder (default: $TRACEGRAD_DATA/KEY or the user's cache)")
    action.add_argument("--mirror", metavar="URL", help="folder on a server that holds the archives under their names")
    action.add_argument(
        "--sha256", metavar="[NAME=]HEX", action="append", default=[], help="expected checksum (of the archive NAME)"
    )
    action.set_defaults(run=run_fetch)

    action = _add(
        actions,
        "convert",
        "Write data in another form.",
        """
        tracegrad data convert my_folders all.h5 --to compact
        tracegrad data convert BB bb_folders --to deeph-new
        """,
    )
    action.add_argument("source", help="a database key, a compact .h5 file, a DeepH folder or a folder of them")
    action.add_argument("target", help="a new .h5 file (compact) or a new folder")
    action.add_argument("--to", required=True, choices=["deeph", "deeph-new", "compact"], help="the form")
    action.set_defaults(run=run_convert)

    action = _add(
        actions,
        "check",
        "Check every structure; exit code 1 if anything is off.",
        """
        tracegrad data check BT
        tracegrad data check my_folders/ --json
        tracegrad data check all.h5 --quiet
        """,
    )
    action.add_argument("source", help="a database key, a compact .h5 file, a DeepH folder or a folder of them")
    action.set_defaults(run=run_check)

    if find_spec("tracegrad.cli.generate") is not None:
        import_module("tracegrad.cli.generate").register(actions)


def _add(actions: Any, name: str, description: str, examples: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name,
        help=description,
        description=description,
        epilog=examples_text(examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object")
    parser.add_argument("--quiet", action="store_true", default=argparse.SUPPRESS, help="no progress, no text")
    return parser


def run_list(options: argparse.Namespace) -> int:
    """Print the registry."""
    from tracegrad.data.databases import DATABASES, RELEASES

    if options.json:
        table = {}
        for key, entry in DATABASES.items():
            facts = {**asdict(entry), "counts_bundled": entry.counts_bundled, "preset": entry.preset()}
            table[key] = {**facts, "bundled_sha256": [m["sha256"] for m in entry.manifests], "dois": RELEASES}
        print_json(table)
        return 0
    rows: list[tuple[str, ...]] = [
        ("key", "system", "spin", "orbitals (bundled)", "bundled", "published", "engine (bundled)")
    ]
    for key, entry in DATABASES.items():
        shells = ", ".join(f"{symbol} {shell_text(ls)}" for symbol, ls in entry.orbitals_bundled.items())
        counts = ["/".join(map(str, c)) for c in (entry.counts_bundled, entry.counts_published)]
        spin = "SOC" if entry.spinful else "-"
        rows.append((key, entry.system, spin, shells, *counts, str(entry.manifests[0].get("engine", "?"))))
    _print_table(rows, "train/val/test/twisted structures; bundled data are ours, not the published databases")
    print("published: " + ", ".join(f"doi:{doi}" for doi in RELEASES))
    return 0


def shell_text(shells: tuple[int, ...]) -> str:
    """Shells as in s2p2d1."""
    return "".join(f"{'spdfghi'[l]}{shells.count(l)}" for l in sorted(set(shells)))


def run_fetch(options: argparse.Namespace) -> int:
    """Fetch a published database with a progress bar."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    from tracegrad.data.fetch import fetch

    hashes = {}
    for word in options.sha256:
        name, _, value = word.rpartition("=")
        if len(value) != 64 or set(value.lower()) - set("0123456789abcdef"):
            raise DataError(f"--sha256 {word}: expected 64 hexadecimal digits, with or without NAME= before them")
        hashes[name] = value.lower()
    with ExitStack() as stack:
        report = None
        if not (options.quiet or options.json):
            columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
            bar = stack.enter_context(Progress(*columns))
            tasks: dict[str, TaskID] = {}

            def report(name: str, done: int, total: int) -> None:
                if name not in tasks:
                    tasks[name] = bar.add_task(name)
                bar.update(tasks[name], completed=done, total=total or None)

        result = fetch(options.key, options.out, mirror=options.mirror, sha256=hashes, progress=report)
    facts = {**asdict(result), "folder": str(result.folder), "split_file": str(result.split_file)}
    if options.json:
        print_json(facts)
    elif not options.quiet:
        for name, archive in result.archives.items():
            print(f"{name}: {archive['bytes']} bytes, sha256 {archive['sha256']}, compared with {archive['checked']}")
        print(f"{result.folder}: " + ", ".join(f"{count} {subset}" for subset, count in result.counts.items()))
        print(f"{result.split_file}: split sha256 {result.split_sha256}")
    return 0


def run_convert(options: argparse.Namespace) -> int:
    """Convert data."""
    from tracegrad.data.convert import convert

    count = convert(options.source, options.target, options.to)
    if options.json:
        print_json({"target": options.target, "form": options.to, "structures": count})
    elif not options.quiet:
        print(f"{options.target}: {count} structures in the form {options.to}")
    return 0


def run_check(options: argparse.Namespace) -> int:
    """Check data; exit code 1 if anything is off."""
    from rich.progress import Progress

    from tracegrad.data.check import DataCheck, check_data

    result = None
    with Progress(transient=True, disable=options.quiet or options.json) as bar:
        task = bar.add_task("checking", total=None)
        for item in check_data(options.source):
            bar.advance(task)
            result = item
    assert isinstance(result, DataCheck)
    if options.json:
        print_json(result.to_json())
    elif not options.quiet:
        _print_check(result)
    return 0 if result.passed else 1


def _print_check(result: Any) -> None:
    head = "name subset formula pairs r_cut/Å d/r dH/eV dS minS(k) order m-mixing NaN dup miss S\\H H\\S dT/eV E_F/eV"
    rows: list[tuple[str, ...]] = [(*head.split(), "faults")]
    for s in result.structures:
        numbers = (s.nan, s.duplicates, s.missing, s.overlap_only, s.hamiltonian_only)
        rows.append(
            (
                s.name,
                s.subset,
                s.formula,
                str(s.pairs),
                f"{s.cutoff:.2f}",
                "-" if s.shortest_bond is None else f"{s.shortest_bond:.2f}",
                *(_short(value) for value in (s.hermiticity_eV, s.overlap_hermiticity, s.smallest_eigenvalue)),
                s.order or "-",
                _short(s.order_defect),
                *map(str, numbers),
                _short(s.time_reversal_eV),
                "-" if s.fermi_energy_eV is None else f"{s.fermi_energy_eV:.3f}",
                str(len(s.faults)),
            )
        )
    _print_table(rows, f"{result.source}: - means that the matrix is not stored")
    faulty = [s for s in result.structures if s.faults]
    for s in faulty:
        print(*(f"{s.name}: {fault}" for fault in s.faults), sep="\n")
    counts = ", ".join(f"{n} {subset}" for subset, n in result.to_json()["counts"].items())
    orbitals = ", ".join(f"{symbol} {shell_text(tuple(ls))}" for symbol, ls in result.orbitals.items())
    gauge = ", ".join(f"{symbol} {1000 * spread:.0f}" for symbol, spread in result.gauge_spread_eV.items())
    print(f"{len(result.structures)} structures ({counts}); {orbitals}; {'spinful' if result.spinful else 'spinless'}")
    print(f"zero of energy (mean on-site energy, std over the set, meV): {gauge or 'no Hamiltonian'}")
    if not result.structures:
        print("no structures; expected at least one")
    else:
        print(f"{len(faulty)} structures with faults" if faulty else "all good")


def _short(value: float | None) -> str:
    return "-" if value is None else "0" if value == 0 else f"{value:.1e}"


def _print_table(rows: list[tuple[str, ...]], title: str) -> None:
    """A table as plain aligned text where the output is no terminal, so that it is never cut; names are no markup."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name, no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row)
    console = Console()
    natural = sum(max(len(row[c]) for row in rows) + 3 for c in range(len(rows[0]))) + 1
    Console(width=max(natural, console.width), markup=False, emoji=False, highlight=False).print(table)
