"""The way through a SLURM cluster, with stand-ins for its three commands that run jobs on this machine."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.reproduce import main

SBATCH = """#!/bin/bash
# Number the job, keep its script, run it in the background with the variables that SLURM sets.
number=$(($(ls "{spool}" | grep -c script) + 101))
cp "${{!#}}" "{spool}/$number.script"
export SLURM_JOB_ID=$number SLURM_JOBID=$number SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0
export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_JOB_NODELIST=here
setsid bash "{spool}/$number.script" > "{spool}/$number.log" 2>&1 &
echo "Submitted batch job $number"
"""
SRUN = """#!/bin/bash
# Leave out options up to the program.
while [[ "$1" == -* ]]; do if [[ "$1" == *=* || "$1" == --unbuffered ]]; then shift; else shift 2; fi; done
exec "$@"
"""
SACCT = """#!/bin/bash
echo "JobID|State|NodeList"
for script in "{spool}"/*.script; do number=$(basename "$script" .script); echo "$number|RUNNING|here"; done
"""


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the jobs of a cluster that is not there."""
    commands, spool = tmp_path / "bin", tmp_path / "spool"
    commands.mkdir()
    spool.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        (commands / name).write_text(text.replace("{spool}", str(spool)).replace("${{!#}}", "${!#}"), encoding="utf-8")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    return spool


def test_runs_go_through_the_cluster(
    tmp_path: Path, spool: Path, trainer: Callable[..., tuple[str, ...]], notes: Callable[[str], list[str]]
) -> None:
    out = tmp_path / "out"
    words = ["--dataset", "MG", "--preset", "smoke", "--settings", "DeepHE3,DeepHE3+Grad", "--out", str(out)]
    words += ["--executor", "slurm", "--slurm", "partition=cats", "--slurm", "cpus_per_task=2", "--hours", "5"]
    assert main([*words, "--no-report"], trainer()) == 0, [path.read_text() for path in spool.glob("*.log")]
    assert sorted(path.stem for path in (out / "runs").iterdir()) == ["MG_DeepHE3+Grad_42", "MG_DeepHE3_42"]
    assert sorted(notes("starts")) == ["MG DeepHE3 42", "MG DeepHE3+Grad 42"]
    scripts = [path.read_text(encoding="utf-8") for path in sorted(spool.glob("*.script"))]
    assert len(scripts) == 2
    for script in scripts:
        given = dict(re.findall(r"#SBATCH --([\w-]+)=(\S+)", script))
        assert (given["partition"], given["cpus-per-task"], given["time"]) == ("cats", "2", "300")
        assert given["job-name"].startswith("MG_DeepHE3")
    assert json.loads((out / "sweep.json").read_text())["failures"] == []


def test_an_unknown_parameter_of_the_cluster_is_refused(
    tmp_path: Path, spool: Path, trainer: Callable[..., tuple[str, ...]], capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", "MG", "--preset", "smoke", "--out", str(tmp_path / "out"), "--executor", "slurm"]
    assert main([*words, "--slurm", "partitoin=cats"], trainer()) == 2
    assert "partitoin" in capfd.readouterr().err
    assert not list(spool.iterdir())
