"""What is installed: the package list against the tree, the wheel's contents, declared dependencies."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path
from typing import Any

# Import names that differ from the distribution's.
DISTRIBUTION = {"yaml": "pyyaml", "torch_geometric": "torch-geometric"}
INSTALLED_TREES = {"tracegrad": "tracegrad", "verify": "tracegrad.verify"}


def project(root: Path) -> dict[str, Any]:
    """Return the parsed ``pyproject.toml``."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def packages_in_tree(root: Path) -> set[str]:
    """Return the installed names of all folders with an ``__init__.py`` in the installed trees."""
    found = set()
    for top, installed in INSTALLED_TREES.items():
        for path in (root / top).rglob("__init__.py"):
            below = path.parent.relative_to(root / top).parts
            found.add(".".join([installed, *below]))
    return found


def undeclared_imports(root: Path, declared: set[str]) -> dict[str, str]:
    """Return third-party top-level names imported by installed code without being declared, with one file each."""
    known = {*declared, *sys.stdlib_module_names, "tracegrad", "verify"}
    missing = {}
    for top in INSTALLED_TREES:
        for path in (root / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                    names = [node.module]
                for name in (name.split(".")[0] for name in names):
                    if DISTRIBUTION.get(name, name) not in known:
                        missing[name] = str(path.relative_to(root))
    return missing


def requirement_names(requirements: list[str]) -> set[str]:
    """Return the bare distribution names of requirement strings, lower case."""
    return {re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0].lower() for requirement in requirements}


def installed_files(root: Path) -> dict[Path, str]:
    """Return every file of the installed trees with the name that it must have in the wheel."""
    return {
        path: f"{installed.replace('.', '/')}/{path.relative_to(root / top).as_posix()}"
        for top, installed in INSTALLED_TREES.items()
        for path in (root / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def build_wheel(root: Path, folder: Path, extra: str | None = None) -> set[str]:
    """Build a wheel offline from a copy in ``folder``, data as empty files; return the names in it."""
    source = folder / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes((root / name).read_bytes())
    neighbours = [path for top in ("benchmarks", "reports", "tests") for path in (root / top).rglob("*.py")]
    for path in [*installed_files(root), *neighbours]:
        target = source / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes() if path.suffix == ".py" else b"")
    if extra:
        (source / extra).touch()
    code = "from setuptools.build_meta import build_wheel; import sys; build_wheel(sys.argv[1])"
    command = [sys.executable, "-W", "ignore", "-c", code, str(folder)]
    run = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_package_list_is_the_tree(root: Path) -> None:
    assert set(project(root)["tool"]["setuptools"]["packages"]) == packages_in_tree(root)


def test_an_unlisted_package_is_seen(root: Path, tmp_path: Path) -> None:
    (tmp_path / "verify" / "new").mkdir(parents=True)
    (tmp_path / "verify" / "new" / "__init__.py").touch()
    assert packages_in_tree(tmp_path) - set(project(root)["tool"]["setuptools"]["packages"]) == {"tracegrad.verify.new"}


def test_wheel_holds_every_file_under_one_name(root: Path, tmp_path: Path) -> None:
    names = build_wheel(root, tmp_path, extra="verify/stray.unknown")
    top_level = {name.split("/")[0] for name in names}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"tracegrad"}
    assert set(installed_files(root).values()) - names == set()
    assert "tracegrad/verify/stray.unknown" not in names, (
        "a file of unknown kind must be left out, or nothing is tested"
    )


def test_third_party_imports_are_declared(root: Path) -> None:
    table = project(root)["project"]
    extras = table["optional-dependencies"]
    declared = requirement_names([*table["dependencies"], *extras["dft"], *extras["physics"], "pytest"])
    assert undeclared_imports(root, declared) == {}
    assert "torch" in undeclared_imports(root, declared - {"torch"}), "the check must see an undeclared import"


def test_constraints_pin_every_requirement(root: Path) -> None:
    table = project(root)["project"]
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", pin) for pin in pins), "names and versions only"
    wanted = requirement_names([*table["dependencies"], *chain(*table["optional-dependencies"].values())])
    assert wanted - requirement_names(pins) == set()
    assert "torch==2.13.0" in pins


def test_tests_are_no_package(root: Path) -> None:
    assert list((root / "tests").rglob("__init__.py")) == []
