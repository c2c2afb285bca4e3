"""The arrows of the architecture: a module imports only from layers below its own, lazy imports included."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

# From the bottom up. A name stands for the module and all that lies under it; names in one row may import each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("tracegrad.errors", "tracegrad.atomic"),
    ("tracegrad.so3",),
    ("tracegrad.data",),
    ("tracegrad.graph",),
    ("tracegrad.model",),
    ("tracegrad.loss", "tracegrad.metrics", "tracegrad.physics"),
    ("tracegrad.config",),
    ("tracegrad.training",),
    ("tracegrad.evaluation",),
    ("tracegrad.prediction",),
    ("tracegrad.cli",),
    ("tracegrad", "tracegrad.__main__"),
    ("verify",),
    ("benchmarks",),
    ("reports",),
)
LEVEL = {name: level for level, row in enumerate(LAYERS) for name in row}
OURS = frozenset(name.split(".")[0] for name in LEVEL)

# The verifier draws its own group elements and has its own Wigner-D, or an error of tracegrad.so3 would hide itself.
# Only the comparison of the two, and the faults planted on purpose, see those of tracegrad.so3.
NOT_FOR_VERIFY = {"wigner_D", "wigner_D_irreps", "spin_half_D", "random_rotation"}
COMPARE = ("verify.method", "verify.mutants")


def layer_of(module: str) -> str | None:
    """Return the layer that a dotted name belongs to: the longest listed prefix; ``tracegrad`` only for itself."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in LEVEL and (prefix != "tracegrad" or module == "tracegrad"):
            return prefix
    return None


def imports(module: str, is_package: bool, source: str) -> list[tuple[int, str, str]]:
    """Return (line, module, imported name or '') for each import in ``source``, relative ones resolved."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    found: list[tuple[int, str, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            target = ".".join([*base, *((node.module or "").split(".") if node.module else [])])
            found += [(node.lineno, target, alias.name) for alias in node.names]
    return found


def violations(sources: Mapping[str, tuple[bool, str]]) -> list[str]:
    """Return one line per forbidden import; ``sources`` maps a module to (is it a package, its text)."""
    wrong: list[str] = []
    for module, (is_package, source) in sources.items():
        own = layer_of(module)
        if own is None:
            wrong.append(f"{module}: in no layer; give it a place in LAYERS")
            continue
        for line, target, name in imports(module, is_package, source):
            if target.split(".")[0] not in OURS or (target, name) == ("tracegrad", "__version__"):
                continue
            submodule = f"{target}.{name}"
            full = submodule if layer_of(submodule) not in (None, layer_of(target)) else target
            other = layer_of(full)
            if other is None:
                wrong.append(f"{module}:{line}: imports {full}, which is in no layer")
            elif LEVEL[other] > LEVEL[own]:
                wrong.append(f"{module}:{line}: {own} imports {full}, a layer above it")
            elif own == "reports" and other not in ("reports", *LAYERS[0]):
                wrong.append(f"{module}:{line}: reports reads files, but imports {full}")
            elif (
                own == "verify"
                and not module.startswith(COMPARE)
                and other == "tracegrad.so3"
                and name in NOT_FOR_VERIFY
            ):
                wrong.append(f"{module}:{line}: verify must use its own instruments, not {name} of {full}")
    return wrong


def tree(root: Path) -> dict[str, tuple[bool, str]]:
    """Read all modules of the four trees."""
    sources = {}
    for top in ("tracegrad", "verify", "benchmarks", "reports"):
        for path in sorted((root / top).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            sources[".".join(parts[:-1] if is_package else parts)] = (is_package, path.read_text(encoding="utf-8"))
    return sources


def test_imports_point_down(root: Path) -> None:
    wrong = violations(tree(root))
    assert not wrong, "\n".join(["", *wrong])


def test_every_listed_layer_exists(root: Path) -> None:
    modules = tree(root)
    assert [name for name in LEVEL if name not in modules] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tracegrad.so3.blocks", "from tracegrad.data import Blocks"),
        ("tracegrad.so3.blocks", "from ..model import TraceGrad"),
        ("tracegrad.model.assembly", "import tracegrad.training.trainer"),
        ("tracegrad.data.io", "def late():\n    from tracegrad import graph"),
        ("tracegrad.graph.build", "from tracegrad import load_dataset"),
        ("tracegrad.evaluation", "import verify"),
        ("verify.suite", "from benchmarks.runner import run"),
        ("verify.group", "from tracegrad.so3 import wigner_D"),
        ("reports.tables", "from tracegrad.metrics import mae_all"),
        ("tracegrad.utils", "x = 1"),
    ],
)
def test_a_forbidden_import_is_rejected(module: str, source: str) -> None:
    assert len(violations({module: (False, source)})) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "tracegrad.model.assembly",
            "from tracegrad import so3\nfrom tracegrad.so3 import wigner_D\nfrom .norm import Norm",
        ),
        ("tracegrad.cli.train", "def run():\n    from tracegrad.training import fit"),
        ("verify.checks.trace", "from tracegrad.so3 import trace_label\nfrom ..group import haar\nimport torch"),
        ("reports.tables", "from tracegrad.atomic import atomic_write\nfrom .style import colours"),
    ],
)
def test_an_allowed_import_is_accepted(module: str, source: str) -> None:
    assert violations({module: (False, source)}) == []


def test_reports_run_without_torch(root: Path) -> None:
    names = [name for name in tree(root) if name.split(".")[0] == "reports" and not name.endswith("__main__")]
    assert names, "no reports tree"
    code = "import importlib, sys; [importlib.import_module(n) for n in sys.argv[1:]]; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code, *names], cwd=root, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["False"]
