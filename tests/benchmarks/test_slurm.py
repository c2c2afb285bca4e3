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


def test_a_refusal_of_the_cluster_is_said_in_one_line(
    tmp_path: Path, spool: Path, trainer: Callable[..., tuple[str, ...]], capfd: pytest.CaptureFixture[str]
) -> None:
    sbatch = tmp_path / "bin" / "sbatch"
    working = sbatch.read_text(encoding="utf-8")
    refusing = "#!/bin/bash\necho 'invalid partition specified: dogs' >&2\nexit 1\n"
    words = ["--dataset", "MG", "--preset", "smoke", "--settings", "DeepHE3,DeepHE3+Grad", "--executor", "slurm"]
    sbatch.write_text(refusing, encoding="utf-8")
    assert main([*words, "--no-report", "--out", str(tmp_path / "none")], trainer()) == 2
    assert "error: MG_DeepHE3_42 was refused by the cluster" in capfd.readouterr().err
    # the second is refused, as by a limit of jobs: the first goes on
    first = f'if ls "{spool}"/*.script > /dev/null 2>&1; then echo "too many jobs" >&2; exit 1; fi\n'
    sbatch.write_text(working.replace("#!/bin/bash\n", "#!/bin/bash\n" + first, 1), encoding="utf-8")
    out = tmp_path / "out"
    assert main([*words, "--no-report", "--out", str(out)], trainer()) == 1
    assert [path.stem for path in (out / "runs").iterdir()] == ["MG_DeepHE3_42"]
    assert "too many jobs" in json.loads((out / "sweep.json").read_text())["failures"][0]


def test_runs_of_several_processes_are_not_handed_to_a_cluster(
    tmp_path: Path, spool: Path, trainer: Callable[..., tuple[str, ...]], capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", "MG", "--preset", "smoke", "--out", str(tmp_path / "out"), "--executor", "slurm"]
    assert main([*words, "--set", "training.devices=2"], trainer()) == 2
    assert "expected one process per run, found training.devices=2" in capfd.readouterr().err
    assert not list(spool.iterdir())
