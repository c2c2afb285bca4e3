"""Sessions of the project: ``nox --list``. Everything after ``--`` goes to the program that the session runs."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]

ROOT = Path(__file__).parent
CONSTRAINTS = ROOT / "constraints.txt"


def install(session: nox.Session, *extras: str) -> None:
    """Install the checkout, editable, with the pinned stack; torch goes first, so that its pin decides the build."""
    session.install("-c", str(CONSTRAINTS), "torch")
    session.install("-c", str(CONSTRAINTS), "-e", f".[{','.join(extras)}]" if extras else ".")


def single_threaded() -> dict[str, str]:
    """Return the environment of a process among several: one thread each, or they fight for the cores."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite on two processes (posargs: pytest's)."""
    install(session, "dft", "physics", "dev")
    session.run("pytest", "-n", "2", *session.posargs, env=single_threaded())


@nox.session
def tests_min(session: nox.Session) -> None:
    """Run the tests with the lowest versions that pyproject.toml allows, 3 GB of CUDA on Linux (posargs: pytest's)."""
    install(session, "dft", "physics", "dev")
    requirements = nox.project.load_toml("pyproject.toml")["project"]["dependencies"]
    session.install(*(text.replace(">=", "==") for text in requirements))
    # Old releases use what others have deprecated since.
    session.run("pytest", "-n", "2", "-W", "default", *session.posargs, env=single_threaded())


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff (posargs: paths)."""
    session.install("-c", str(CONSTRAINTS), "ruff")
    paths = session.posargs or ["."]
    session.run("ruff", "check", *paths)
    session.run("ruff", "format", "--check", *paths)


@nox.session
def types(session: nox.Session) -> None:
    """Type-check the four trees with mypy, strict (posargs: mypy's)."""
    install(session, "dft", "dev")
    session.run("mypy", *session.posargs)


@nox.session(reuse_venv=False)
def package(session: nox.Session) -> None:
    """Build sdist and wheel, check the wheel's names, install it into a clean environment and use it from elsewhere."""
    session.install("-c", str(CONSTRAINTS), "build", "torch")
    with tempfile.TemporaryDirectory() as folder:
        session.run("python", "-m", "build", "--outdir", folder, *session.posargs)
        (wheel,) = Path(folder).glob("*.whl")
        top_level = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
        stray = sorted(name for name in top_level if name != "tracegrad" and not name.endswith(".dist-info"))
        if stray:
            session.error(f"the wheel holds top-level names besides tracegrad: {', '.join(stray)}")
        session.install("-c", str(CONSTRAINTS), str(wheel))
        session.cd(folder)
        session.run("tracegrad", "--help", silent=True)
        session.run("tracegrad-verify", "--help", silent=True)
        session.run("python", "-m", "tracegrad.verify", "--help", silent=True)
        for example in ("quickstart.py", "verify_layer.py"):
            session.run("python", str(ROOT / "examples" / example))


@nox.session
def verify(session: nox.Session) -> None:
    """Gate the model: theorems, every setting on every set of orbitals, kill matrix (posargs: python -m verify's)."""
    install(session)
    session.run("python", "-m", "verify", *session.posargs, env=single_threaded())


@nox.session
def peers(session: nox.Session) -> None:
    """Verify potentials of other packages, as built and with planted faults (posargs: python -m benchmarks.peers's)."""
    install(session)
    # MACE asks for e3nn 0.4.4, which current torch cannot read; it runs with later ones.
    session.install("-c", str(CONSTRAINTS), "--no-deps", "mace-torch", "nequip")
    needed = ("configargparse", "gitpython", "hydra-core", "lmdb", "matscipy", "opt_einsum", "orjson")
    session.install("-c", str(CONSTRAINTS), *needed, "prettytable", "python-hostlist", "torch-ema", "torchmetrics")
    session.run("python", "-m", "benchmarks.peers", *session.posargs, env=single_threaded())


@nox.session
def fuzz(session: nox.Session) -> None:
    """Mutate valid files, guided by coverage, and let the loaders read them (posargs: tests/fuzz/guided.py's)."""
    install(session, "fuzz")
    session.run(
        "python", "tests/fuzz/guided.py", *(session.posargs or ("all", "--seconds", "60")), env=single_threaded()
    )


@nox.session
def reproduce(session: nox.Session) -> None:
    """Train the settings of a table, print it beside the published one (posargs: --dataset MG, --preset smoke, ...)."""
    install(session)
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Print the ratios of the core to the e3nn backend and its scaling (posargs: python -m benchmarks.speed's)."""
    install(session)
    out = ("--out", "reports/performance", "--images", "docs/images")
    session.run("python", "-m", "benchmarks.speed", *out, *session.posargs, env=single_threaded())
    several = ("--threads", str(os.cpu_count() or 1), "--edges", "1500", "--repeats", "3", "--modules", "fast")
    session.run("python", "-m", "benchmarks.speed", *several, *out, env=single_threaded())
    session.run("python", "-m", "benchmarks.scaling", *out, env=single_threaded())


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into site/, warnings are errors (posargs: mkdocs build's)."""
    session.install(
        "-c",
        str(CONSTRAINTS),
        "ruff",
        *nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["docs"],
    )
    session.run("mkdocs", "build", "--strict", *session.posargs)
