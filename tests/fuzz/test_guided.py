"""Coverage-guided fuzzing runs, sees branches, and reports what it finds (only where atheris is installed)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="needs atheris (pip install tracegrad[fuzz])")


def run(root: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program with a module of its own on the path, if there is one."""
    command = [sys.executable, str(root / "tests" / "fuzz" / "guided.py"), *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=root, env={**os.environ, **environment}
    )


def test_damaged_yaml_is_refused_by_our_own_errors(root: Path) -> None:
    done = run(root, "yaml", "--runs", "300", "--seconds", "60")
    assert done.returncode == 0, done.stderr
    inputs, branches = map(int, re.findall(r"(\d+) inputs.* (\d+) branches", done.stdout)[0])
    assert inputs == 300
    assert branches > 100
    assert "0 finds" in done.stdout


def test_a_crash_is_found(root: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import json\nreal = json.loads\n"
        "def loads(text, *a, **k):\n"
        "    if '9' in str(text): raise KeyError('planted')\n"
        "    return real(text, *a, **k)\n"
        "json.loads = loads\n"
    )
    words = ("key", "--runs", "200000", "--seconds", "60")
    done = run(root, *words, PYTHONPATH=f"{tmp_path}:{root}", TMPDIR=str(tmp_path))
    assert done.returncode == 1
    assert "1 finds" in done.stdout
    assert "planted" in done.stderr
