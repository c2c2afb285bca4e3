"""What the README and the docs say is true: code runs, commands and files exist."""

from __future__ import annotations

import ast
import importlib.util
import io
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from tracegrad.cli import build_parser

EXAMPLES = ("quickstart.py", "verify_layer.py")


def blocks(text: str, language: str) -> list[str]:
    """Return the contents of the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def pages(root: Path) -> list[Path]:
    """Return the pages whose commands and paths are checked."""
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]


def commands(text: str) -> list[str]:
    """Return the command lines of the shell blocks, without comments, continuation lines joined."""
    lines = "\n".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in re.sub(r"\s+#.*", "", line).split("&&")]
    return [part for part in parts if part and not part.startswith("#")]


def unlabelled_commands(text: str) -> list[str]:
    """Return the command lines of fenced blocks that name no language."""
    found, fence = [], None
    for line in text.splitlines():
        if line.startswith("```"):
            fence = line.removeprefix("```").strip() if fence is None else None
        elif fence == "" and line.split(" ")[0] in ("tracegrad", "tracegrad-verify", "nox", "python", "pip"):
            found.append(line)
    return found


def test_examples_shown_in_the_docs_are_files(root: Path) -> None:
    texts = [page.read_text(encoding="utf-8") for page in pages(root)]
    lines = [line for text in texts for line in text.splitlines() if line.startswith("--8")]
    assert len(lines) >= 2
    for line in lines:  # a formatter that takes the marker for an expression would spoil it
        marker = re.fullmatch(r'--8<-- "(.+)"', line)
        assert marker, line
        assert (root / marker[1]).is_file()


def nox_sessions(root: Path) -> set[str]:
    """Return the names of the sessions in the noxfile."""
    tree = ast.parse((root / "noxfile.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {node.name for node in functions if any("session" in ast.dump(d) for d in node.decorator_list)}


def is_accepted(words: list[str]) -> bool:
    """Return whether ``tracegrad`` takes the words: command, action, options, and values where it lists them."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            build_parser(words).parse_args(words)
    except SystemExit as leave:
        return leave.code == 0  # --help
    return True


def unknown_commands(lines: list[str], sessions: set[str], root: Path) -> list[str]:
    """Return the command lines that call what does not exist: a session, a command, an option, a module or a file."""
    wrong = []
    for line in lines:
        words = line.split()
        if words[0] == "nox" and "-s" in words:
            tail = words[words.index("-s") + 1 :]
            named = tail[: tail.index("--")] if "--" in tail else tail
            bad = bool(set(named) - sessions)
        elif words[0] == "tracegrad":
            bad = not is_accepted(shlex.split(line)[1:])
        elif words[:2] == ["python", "-m"]:
            sys.path.insert(0, str(root))
            bad = importlib.util.find_spec(words[2]) is None
            sys.path.remove(str(root))
        elif words[0] == "python":
            bad = not (root / words[1]).is_file()
        else:
            bad = words[0] not in {
                "pip",
                "nox",
                "tracegrad-verify",
                "apt-get",
                "git",
                "cd",
                "export",
                "source",
                "pytest",
            }
        if bad:
            wrong.append(line)
    return wrong


def unknown_sessions(text: str, sessions: set[str]) -> set[str]:
    """Return the names of sessions in running text that do not exist."""
    return set(re.findall(r"nox -s (\w+)", text)) - sessions


def missing_paths(text: str, root: Path) -> list[str]:
    """Return the code-quoted repository paths that do not exist; ``KEY`` stands for the key of any database."""
    quoted = re.findall(r"`((?:tracegrad|verify|benchmarks|reports|tests|docs|examples)/[\w./-]+?)/?`", text)
    return [
        path for path in quoted if not any(root.glob(path.replace("KEY", "*"))) and not path.startswith("reports/out")
    ]


def test_readme_shows_the_summary_of_the_committed_results(root: Path) -> None:
    rows = (root / "reports/results/bundled/summary.md").read_text(encoding="utf-8").splitlines()[2:]
    assert len([row for row in rows if row.startswith(("| M", "| B"))]) == 11
    shown = [line for line in (root / "README.md").read_text(encoding="utf-8").splitlines() if line in rows]
    assert shown == rows


def test_readme_shows_the_grid_of_the_gains(root: Path) -> None:
    grid = (root / "reports/results/gains_by_condition.md").read_text(encoding="utf-8")
    assert grid.startswith("| recipe and rate | rate | steps |")
    assert grid in (root / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", EXAMPLES)
def test_readme_shows_the_example_that_is_run(root: Path, name: str) -> None:
    code = (root / "examples" / name).read_text(encoding="utf-8")
    assert code in blocks((root / "README.md").read_text(encoding="utf-8"), "python")


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(root: Path, name: str) -> None:
    # In the checkout the verifier is `verify`; the session `package` runs the same file on the installed name.
    code = (root / "examples" / name).read_text(encoding="utf-8").replace("from tracegrad.verify", "from verify")
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()


def test_quick_start_is_short(root: Path) -> None:
    lines = (root / "examples" / "quickstart.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) <= 15


def test_every_command_exists(root: Path) -> None:
    lines = [line for page in pages(root) for line in commands(page.read_text(encoding="utf-8"))]
    assert any(line.startswith("nox -s reproduce") for line in lines)
    assert any(line == "nox -s tests" for line in lines)
    assert any(line.startswith("tracegrad data generate") for line in lines)
    assert unknown_commands(lines, nox_sessions(root), root) == []


def test_every_command_stands_in_a_block_that_is_checked(root: Path) -> None:
    assert {page.name: unlabelled_commands(page.read_text(encoding="utf-8")) for page in pages(root)} == {
        page.name: [] for page in pages(root)
    }
    text = "```\nnox -s tests\n```\n\ntracegrad info\n\n```python\ntracegrad info\n```\n"
    assert unlabelled_commands(text) == ["nox -s tests"]


def test_every_session_that_is_named_exists(root: Path) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in pages(root))
    assert unknown_sessions(text, nox_sessions(root)) == set()
    assert unknown_sessions(text, nox_sessions(root) - {"fuzz"}) == {"fuzz"}


def test_every_path_exists(root: Path) -> None:
    wrong = {page.name: missing_paths(page.read_text(encoding="utf-8"), root) for page in pages(root)}
    assert {name: paths for name, paths in wrong.items() if paths} == {}


@pytest.mark.parametrize(
    "line",
    [
        "nox -s test",
        "nox -s lint typos",
        "tracegrad trian --out x",
        "tracegrad data chek MG",
        "tracegrad predict final.ckpt a.cif --devise cuda --out x",
        "tracegrad data convert MG x --to deep",
        "python -m benchmark",
        "python examples/none.py",
        "make",
    ],
)
def test_a_command_that_does_not_exist_is_seen(root: Path, line: str) -> None:
    assert unknown_commands([line], {"tests", "lint", "types"}, root) == [line]


def test_a_path_that_does_not_exist_is_seen(root: Path) -> None:
    assert missing_paths("see `tracegrad/so4/blocks.py` and `tests/conftest.py`", root) == ["tracegrad/so4/blocks.py"]
