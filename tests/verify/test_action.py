"""The composite action: inputs reach the command, exit codes are the verifier's, what was not tested never passes."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

STUB = """#!/bin/sh
for argument in "$@"; do echo "$argument" >> arguments.txt; done
[ -f untested ] && exit ${STUB_CODE:-0}
mkdir -p equivariance
echo '## summary' > equivariance/summary.md
if [ -f report.json ]; then cp report.json equivariance/report.json; else echo '{}' > equivariance/report.json; fi
exit ${STUB_CODE:-0}
"""


@pytest.fixture
def action(root) -> dict:
    return yaml.safe_load((root / "action.yml").read_text())


@pytest.fixture
def run_step(action, root, tmp_path):
    """Run one step's script with the defaults of the inputs and a stub in place of the command."""
    folder = tmp_path / "bin"
    folder.mkdir()
    stub = folder / "tracegrad-verify"
    stub.write_text(STUB)
    stub.chmod(stub.stat().st_mode | stat.S_IEXEC)
    python = folder / "python"
    module = "verify.trend"
    python.write_text(
        f'#!/bin/sh\n[ "$2" = tracegrad.verify.trend ] && shift 2 && exec {sys.executable} -m {module} "$@"\n'
    )
    python.chmod(python.stat().st_mode | stat.S_IEXEC)

    def run(
        name: str, code: str = "0", compared: str = "", judged: str = "", **inputs: str
    ) -> subprocess.CompletedProcess:
        step = next(s for s in action["runs"]["steps"] if s["name"] == name)
        values = {key: str(value["default"]) for key, value in action["inputs"].items()} | inputs
        env = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(root), "HOME": str(tmp_path)}
        env |= {"GITHUB_OUTPUT": str(tmp_path / "output"), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
        for variable, expression in step["env"].items():
            source = re.fullmatch(r"\$\{\{ (inputs|github|steps)\.([\w.-]+) \}\}", expression)
            made = {"verify.outputs.compared": compared, "verify.outputs.judged": judged}
            env[variable] = values[source[2]] if source[1] == "inputs" else made.get(source[2], code)
        env["STUB_CODE"] = code
        command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]]
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    return run


def test_inputs_become_arguments(run_step, tmp_path):
    done = run_step("Verify", target="pkg.mod:make model", **{"budget-mev": "0.5"}, arguments="--trials 8 --seed 3")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "arguments.txt").read_text().splitlines() == [
        "--report", "equivariance", "--dtype", "float64", "--target", "pkg.mod:make model", "--budget-mev", "0.5",
        "--trials", "8", "--seed", "3",
    ]  # fmt: skip
    assert (tmp_path / "summary").read_text() == "## summary\n"


@pytest.mark.parametrize("code", ["0", "1", "2", "3", "4"])
def test_exit_code_is_handed_on_and_judged(run_step, tmp_path, code):
    assert run_step("Verify", code=code).returncode == 0
    assert (tmp_path / "output").read_text() == f"exit-code={code}\n"
    assert run_step("Judge", code=code).returncode == int(code)


def test_only_tolerated_codes_are_let_through(run_step):
    assert run_step("Judge", code="2", tolerate="2 3").returncode == 0
    assert run_step("Judge", code="1", tolerate="2 3").returncode == 1


@pytest.mark.parametrize(("code", "expected"), [("2", "2"), ("1", "1"), ("127", "127"), ("0", "2")])
def test_what_was_not_tested_fails_whatever_is_tolerated(run_step, tmp_path, code, expected):
    run_step("Verify")  # an earlier run in the same folder has left its reports
    assert (tmp_path / "equivariance" / "report.json").exists()
    for name in ("output", "summary"):
        (tmp_path / name).unlink()
    (tmp_path / "untested").touch()
    assert run_step("Verify", code=code, baseline="equivariance/report.json").returncode == 0
    assert (tmp_path / "output").read_text() == f"judged=no\nexit-code={expected}\n"
    assert not (tmp_path / "summary").exists()  # the summary of the earlier run is none of this one
    judged = run_step("Judge", code=expected, judged="no", tolerate="0 1 2 3 4 127")
    assert judged.returncode == int(expected)
    assert "nothing was tested" in judged.stdout
    assert run_step("Judge", code=expected, tolerate="0 1 2 3 4 127").returncode == 0  # control: a verdict may be


@pytest.mark.parametrize(
    "arguments", [["--target", "no_such_module:build"], ["--target", "json:dumps"], ["--no-such-option"]], ids=" ".join
)
def test_the_command_leaves_no_report_where_nothing_was_tested(tmp_path, arguments):
    from verify.cli import main

    try:
        code = main(["--report", str(tmp_path), *arguments])
    except SystemExit as stopped:  # argparse
        code = stopped.code
    assert code == 2
    assert not (tmp_path / "report.json").exists()


def test_inputs_are_never_executed(run_step, tmp_path):
    evil = "$(touch evil); `touch evil`"
    run_step("Verify", target=evil, arguments="; touch evil")
    assert not (tmp_path / "evil").exists()
    assert evil in (tmp_path / "arguments.txt").read_text()


def test_growth_over_the_baseline_fails_the_step(run_step, tmp_path):
    check = {"name": "rotation", "error": 1e-14, "tolerance": 2e-14, "verdict": "PASS"}
    report = {"schema_version": 1, "checks": [check], "skipped": {}, "noise_floor": {"value": 1e-16}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    for before, expected in ((1e-14, "0"), (1e-16, "1")):
        old = report | {"checks": [check | {"error": before}]}
        (tmp_path / "old.json").write_text(json.dumps(old))
        (tmp_path / "output").unlink(missing_ok=True)
        done = run_step("Verify", baseline="old.json")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "output").read_text() == f"exit-code={expected}\n"
    assert "rotation" in (tmp_path / "summary").read_text()


@pytest.mark.parametrize(("code", "expected"), [("2", "1"), ("4", "4")])
def test_growth_is_not_hidden_by_a_code_that_may_be_tolerated(run_step, tmp_path, code, expected):
    check = {"name": "rotation", "error": 1e-14, "tolerance": 2e-14, "verdict": "PASS"}
    report = {"schema_version": 1, "checks": [check], "skipped": {}, "noise_floor": {"value": 1e-16}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    (tmp_path / "old.json").write_text(json.dumps(report | {"checks": [check | {"error": 1e-16}]}))
    run_step("Verify", code=code, baseline="old.json")
    assert (tmp_path / "output").read_text() == f"exit-code={expected}\n"


@pytest.mark.parametrize(("code", "expected"), [("0", "1"), ("2", "1"), ("4", "4")])
@pytest.mark.parametrize("content", ["{", "{}"], ids=["truncated", "no-report"])
def test_an_unreadable_baseline_fails_and_is_never_tolerated(run_step, tmp_path, content, code, expected):
    report = {"schema_version": 1, "checks": [], "skipped": {}, "noise_floor": {"value": 1e-16}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    (tmp_path / "old.json").write_text(content)
    assert run_step("Verify", code=code, baseline="old.json").returncode == 0
    assert (tmp_path / "output").read_text() == f"compared=no\nexit-code={expected}\n"
    reason = (tmp_path / "equivariance" / "trend.txt").read_text()
    assert "error: " in reason
    assert "old.json" in reason
    assert reason in (tmp_path / "summary").read_text()
    judged = run_step("Judge", code=expected, compared="no", tolerate="1 2 4")
    assert judged.returncode == 1
    assert "trend.txt" in judged.stdout
    assert run_step("Judge", code=expected, tolerate="1 2 4").returncode == 0  # control: what was compared may be


@pytest.mark.parametrize(("before", "output"), [([], "compared=no\n"), (["rotation"], "")])
def test_a_baseline_with_nothing_in_common_is_no_comparison(run_step, tmp_path, before, output):
    check = {"name": "rotation", "error": 1e-14, "tolerance": 2e-14, "verdict": "PASS"}
    report = {"schema_version": 1, "checks": [check], "skipped": {"inversion": "no"}, "noise_floor": {"value": 1e-16}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    (tmp_path / "old.json").write_text(json.dumps(report | {"checks": [check | {"name": name} for name in before]}))
    run_step("Verify", code="2", baseline="old.json")
    assert (tmp_path / "output").read_text() == f"{output}exit-code=2\n"


def test_missing_baseline_is_skipped(run_step, tmp_path):
    run_step("Verify", baseline="nothing.json")
    assert (tmp_path / "output").read_text() == "exit-code=0\n"


def test_scripts_take_inputs_from_the_environment_only(action):
    for step in action["runs"]["steps"]:
        assert "${{" not in step.get("run", "")
        assert "run" not in step or step["shell"] == "bash"


def test_every_input_is_used_and_every_used_input_exists(action, root):
    text = (root / "action.yml").read_text()
    used = set(re.findall(r"inputs\.([\w-]+)", text))
    assert used == set(action["inputs"])


def test_example_workflow_uses_the_action_with_inputs_it_has(action, root):
    workflow = yaml.safe_load((root / ".github" / "workflows" / "equivariance-example.yml").read_text())
    (job,) = workflow["jobs"].values()
    (step,) = [s for s in job["steps"] if s.get("uses") == "./"]
    assert set(step["with"]) <= set(action["inputs"])
    assert workflow["permissions"] == {"contents": "read", "security-events": "write"}


def test_report_names_of_the_action_are_those_that_are_written(root):
    from verify.reporting.files import NAMES

    text = Path(root / "action.yml").read_text()
    for form in ("json", "markdown", "sarif"):
        assert NAMES[form] in text
