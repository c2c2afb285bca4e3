"""House rules that no linter states: sizes, docstrings, and calls that are unsafe or lose digits."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

MODULE_LINES, FUNCTION_LINES = 400, 60
TREES = ("tracegrad", "verify", "benchmarks", "reports")
# name of the called function -> why it is not here
FORBIDDEN_CALLS = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "acos": "loses half the digits near the poles; use atan2",
    "arccos": "loses half the digits near the poles; use arctan2",
    "matrix_exp": "Wigner-D comes from precomputed J matrices",
    "expm": "Wigner-D comes from precomputed J matrices",
}
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib"}  # loading runs code; catching their errors does not
PICKLE_ERRORS = {"PickleError", "PicklingError", "UnpicklingError"}
# Files whose task is the forbidden thing: the catalogue of faults breaks rules on purpose.
ALLOWED = ("verify/mutants",)


def called_name(call: ast.Call) -> str:
    """Return the last part of a call's function: ``torch.linalg.matrix_exp(x)`` → ``matrix_exp``."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def unsafe(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, reason) for each forbidden call, keyword or import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = called_name(node)
            method = name in {"eval", "exec"} and isinstance(node.func, ast.Attribute)  # module.eval() is another thing
            if name in FORBIDDEN_CALLS and not method:
                yield node.lineno, f"{name}: {FORBIDDEN_CALLS[name]}"
            for keyword in node.keywords:
                value = getattr(keyword.value, "value", None)
                if (keyword.arg, value) in {("weights_only", False), ("allow_pickle", True)}:
                    yield node.lineno, f"{keyword.arg}={value}: loading runs code"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLES:
            names = {alias.name for alias in node.names} - PICKLE_ERRORS
            yield from ((node.lineno, f"{node.module}.{name}: loading runs code") for name in sorted(names))
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", None) in PICKLES:
            names = {node.attr} - PICKLE_ERRORS
            yield from ((node.lineno, f"pickle's {name}: loading runs code") for name in names)


def long_parts(tree: ast.Module, lines: int) -> Iterator[tuple[int, str]]:
    """Yield (line, reason) for a module or function that is too long."""
    if lines >= MODULE_LINES:
        yield 1, f"module of {lines} lines (limit {MODULE_LINES})"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length >= FUNCTION_LINES:
                yield node.lineno, f"function {node.name} of {length} lines (limit {FUNCTION_LINES})"


@dataclass(frozen=True)
class DocumentedClass:
    """What a class hands on: the names of its bases and of its documented methods."""

    bases: tuple[str, ...]
    methods: frozenset[str]


Classes = Mapping[str, DocumentedClass]


def documented_classes(trees: Iterable[ast.Module]) -> Classes:
    """Return all classes of our modules by name; an overriding method inherits its docstring from them."""
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {
        node.name: DocumentedClass(
            tuple(ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases),
            frozenset(m.name for m in node.body if isinstance(m, ast.FunctionDef) and ast.get_docstring(m)),
        )
        for node in nodes
    }


def inherits_docstring(owner: str, method: str, classes: Classes) -> bool:
    """Return whether a base of ``owner`` in our own modules documents ``method``."""
    bases = classes[owner].bases if owner in classes else ()
    return any(b in classes and (method in classes[b].methods or inherits_docstring(b, method, classes)) for b in bases)


def undocumented(tree: ast.Module, classes: Classes) -> Iterator[tuple[int, str]]:
    """Yield (line, reason) for each public module, class, function or method without a docstring, own or inherited."""
    if not ast.get_docstring(tree):
        yield 1, "module without docstring"

    def visit(body: list[ast.stmt], owner: str = "") -> Iterator[tuple[int, str]]:
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
                continue
            overload = any("overload" in ast.dump(decorator) for decorator in node.decorator_list)
            if not ast.get_docstring(node) and not overload and not inherits_docstring(owner, node.name, classes):
                yield node.lineno, f"{node.name} without docstring"
            if isinstance(node, ast.ClassDef):
                yield from visit(node.body, node.name)

    yield from visit(tree.body)


def complaints(source: str, classes: Classes | None = None, allowed: bool = False) -> list[str]:
    """Return all complaints about one module's text; ``allowed`` leaves out those about unsafe calls."""
    tree = ast.parse(source)
    known = documented_classes([tree]) if classes is None else classes
    found = [*([] if allowed else unsafe(tree)), *long_parts(tree, source.count("\n")), *undocumented(tree, known)]
    return [f"{line}: {reason}" for line, reason in sorted(found)]


def modules(root: Path) -> list[Path]:
    """Return the files that the rules hold for."""
    return [path for tree in TREES for path in sorted((root / tree).rglob("*.py"))]


def test_house_rules(root: Path) -> None:
    sources = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in modules(root)}
    classes = documented_classes(ast.parse(source) for source in sources.values())
    wrong = []
    for name, source in sources.items():
        wrong += [f"{name}:{complaint}" for complaint in complaints(source, classes, name.startswith(ALLOWED))]
    assert not wrong, "\n".join(["", *wrong])


def test_no_drawer_for_leftovers(root: Path) -> None:
    drawers = {"utils", "util", "tools", "misc", "helpers", "common"}
    assert [str(path) for path in modules(root) if drawers & {*path.parts[len(root.parts) :], path.stem}] == []


BROKEN = {
    "eval": '"""M."""\nx = eval("1")\n',
    "pickle": '"""M."""\nimport pickle\nx = pickle.load(f)\n',
    "from pickle": '"""M."""\nfrom pickle import load\n',
    "torch.load": '"""M."""\nimport torch\nx = torch.load("f", weights_only=False)\n',
    "numpy.load": '"""M."""\nimport numpy as np\nx = np.load("f", allow_pickle=True)\n',
    "matrix_exp": '"""M."""\nimport torch\nx = torch.linalg.matrix_exp(torch.eye(3))\n',
    "acos": '"""M."""\nimport torch\nx = torch.acos(torch.ones(1))\n',
    "module without docstring": "x = 1\n",
    "function without docstring": '"""M."""\n\ndef public():\n    return 1\n',
    "method without docstring": '"""M."""\n\nclass Public:\n    """D."""\n\n    def method(self):\n        return 1\n',
    "base without docstring": (
        '"""M."""\n\nclass _Base:\n    def method(self):\n        return 1\n\n'
        'class Public(_Base):\n    """D."""\n\n    def method(self):\n        return 2\n'
    ),
    "long module": '"""M."""\n' + "x = 1\n" * MODULE_LINES,
    "long function": '"""M."""\n\ndef _long():\n' + "    x = 1\n" * FUNCTION_LINES,
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_reported(rule: str) -> None:
    assert len(complaints(BROKEN[rule])) == 1


def test_clean_code_is_accepted() -> None:
    source = (
        '"""M."""\nimport torch\n\n\ndef public(model, path):\n    """D."""\n'
        "    model.eval()\n    return torch.load(path, weights_only=True)\n"
    )
    source += (
        '\n\nclass Base:\n    """D."""\n\n    def method(self):\n        """D."""\n\n'
        'class Derived(Base):\n    """D."""\n\n    def method(self):\n        return 1\n'
    )
    assert complaints(source) == []
