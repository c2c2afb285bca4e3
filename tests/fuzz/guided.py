"""Coverage-guided fuzzing of the loaders with atheris: python tests/fuzz/guided.py TARGET|all [--seconds 60].

Each target starts from valid files, mutates their bytes and lets a loader read them. Allowed is a result or a
TracegradError; any other exception, more than 10 s for one input, or more than 2 GB of memory ends with exit code 1,
and the input is left in the folder that is named. ``nox -s fuzz`` installs what is needed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np

SECONDS_PER_INPUT, MEGABYTES = 10, 2048
TABLES = ("element.dat", "lat.dat", "site_positions.dat", "orbital_types.dat")
TARGETS = ("key", "yaml", "split", "legacy-info", "legacy-tables", "legacy-hdf5", "new-info", "new-hdf5", "compact")


def main() -> int:
    """Fuzz the targets one after the other, each in a process of its own; print one line per target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=("all", *TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="per target (default: 60)")
    parser.add_argument("--runs", type=int, default=-1, help="inputs per target (default: as many as the time allows)")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # in the process of one target
    options = parser.parse_args()
    if options.folder is not None:
        fuzz(options.target, options.folder, options.runs, options.seconds)
    found = 0
    for target in TARGETS if options.target == "all" else (options.target,):
        place = None if "TMPDIR" in os.environ else shared_memory()
        folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{target}-", dir=place))
        words = [sys.executable, __file__, target, "--folder", str(folder)]
        words += ["--seconds", str(options.seconds), "--runs", str(options.runs)]
        run = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
        finds = sorted(folder.glob("find-*"))
        print(f"{target:14} {summary(run.stderr)}, {len(finds)} finds", flush=True)
        if finds or run.returncode:
            found += 1
            print(run.stdout[-3000:], run.stderr[-3000:], f"\ninput and originals: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder)
    return 1 if found else 0


def shared_memory() -> Path | None:
    """A folder that is no disk, where there is one: every input is written as a file."""
    return Path("/dev/shm") if Path("/dev/shm").is_dir() else None


def summary(log: str) -> str:
    """Inputs, rate and branches reached, from the last lines of libFuzzer."""
    done = re.findall(r"^#(\d+)\s+DONE\s+cov: (\d+).*exec/s: (\d+) rss: (\d+)Mb", log, flags=re.MULTILINE)
    if not done:
        return "stopped"
    runs, branches, rate, megabytes = done[-1]
    return f"{runs:>8} inputs, {rate:>5}/s, {branches:>5} branches, {megabytes} MB"


def originals(folder: Path) -> None:
    """Write a dimer in all forms."""
    from tracegrad.data import Blocks, Structure, write_deeph
    from tracegrad.data.compact import write_compact
    from tracegrad.data.folders import scan_folders, write_split

    random = np.random.default_rng(0)
    keys = ((0, 0, 0, 0, 0), (0, 0, 0, 1, 1), (0, 0, 0, 0, 1), (1, 0, 0, 0, 1))
    blocks = {key: random.normal(size=(4, 4)) for key in keys}
    half = Blocks.from_dict({key: b + b.T if key[3] == key[4] else b for key, b in blocks.items()})
    atoms = np.array([6, 6]), np.array([[0.0, 0, 0], [1.2, 0.1, 0]]), 5 * np.eye(3), np.ones(3, dtype=bool)
    dimer = Structure(*atoms, {6: (0, 1)}, False, half, half, name="dimer").validate()
    write_deeph(dimer, folder / "legacy")
    write_deeph(dimer, folder / "new", "new")
    write_compact(folder / "MG.h5", [("train", dimer)])
    write_split(scan_folders(folder, "MG"), folder / "split.json")
    (folder / "run.yaml").write_text("data: {dataset: MG}\ntraining: {epochs: 3, learning_rate: 1e-3, loggers: []}\n")


def reader(target: str, folder: Path) -> tuple[list[bytes], Callable[[bytes], object]]:
    """Valid inputs of a target, and what reads one."""
    from tracegrad.config import load_config
    from tracegrad.data import load_dataset, read_deeph
    from tracegrad.data.deeph import parse_key
    from tracegrad.data.folders import read_split

    if target == "key":
        return [b"[0, 0, 0, 1, 2]", b"[-1, 2, 0, 2, 1]"], lambda data: parse_key(data.decode(errors="replace"), 3, "h")
    file, read = {
        "yaml": ("run.yaml", lambda: load_config(folder / "run.yaml")),
        "split": ("split.json", lambda: read_split(folder / "split.json")),
        "legacy-info": ("legacy/info.json", lambda: read_deeph(folder / "legacy")),
        "legacy-hdf5": ("legacy/hamiltonians.h5", lambda: read_deeph(folder / "legacy")),
        "legacy-tables": ("", lambda: read_deeph(folder / "legacy")),
        "new-info": ("new/info.json", lambda: read_deeph(folder / "new")),
        "new-hdf5": ("new/hamiltonian.h5", lambda: read_deeph(folder / "new")),
        "compact": ("MG.h5", lambda: list(load_dataset("MG", folder / "MG.h5").train)),
    }[target]
    files = [folder / file] if file else [folder / "legacy" / name for name in TABLES]
    valid = [path.read_bytes() for path in files]

    def write_and_read(data: bytes) -> object:
        """The input in place of the file; of the four tables the first byte chooses one."""
        chosen = data[0] % len(files) if data and len(files) > 1 else 0
        files[chosen].write_bytes(data[1:] if len(files) > 1 else data)
        try:
            return read()
        finally:
            files[chosen].write_bytes(valid[chosen])

    return [bytes([k]) + v if len(files) > 1 else v for k, v in enumerate(valid)], write_and_read


def fuzz(target: str, folder: Path, runs: int, seconds: int) -> None:
    """Fuzz one target until the time or the number of inputs is used up; ends the process."""
    import atheris

    with atheris.instrument_imports(include=["tracegrad.data", "tracegrad.config", "yaml"]):
        for module in ("config", "data.convert"):
            import_module(f"tracegrad.{module}")
    from tracegrad.errors import TracegradError

    (folder / "data").mkdir()
    originals(folder / "data")
    inputs, read = reader(target, folder / "data")
    (folder / "corpus").mkdir()
    for k, content in enumerate(inputs):
        read(content)  # valid ones must be read, or nothing is tested
        (folder / "corpus" / str(k)).write_bytes(content)

    def one(data: bytes) -> None:
        try:
            read(data)
        except TracegradError as error:
            if not 0 < len(str(error)) < 5000:
                raise AssertionError("a message without end") from error

    limits = [
        f"-timeout={SECONDS_PER_INPUT}",
        f"-rss_limit_mb={MEGABYTES}",
        f"-max_total_time={seconds}",
        f"-runs={runs}",
    ]
    words = ["-seed=1", "-max_len=40000", "-print_final_stats=1", f"-artifact_prefix={folder}/find-"]
    atheris.Setup([sys.argv[0], *limits, *words, str(folder / "corpus")], one)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
