"""The pytest plugin: passes and fails tests, obeys its options, works under xdist, and is silent when unused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest

MODELS = """
import pytest
import torch
from e3nn import o3

from tracegrad.errors import VerificationError

def scale(x):
    return x * x.square().sum(-1, keepdim=True)

def shifted(x):
    return x + 0.1
"""

TESTS = (
    MODELS
    + """
def test_sound(equivariance):
    report = equivariance(scale, ["1x1o"], ["1x1o"], search=0)
    assert report.passed

def test_broken(equivariance):
    equivariance(shifted, ["1x1o"], ["1x1o"], search=0)

def test_measured_only(equivariance):
    report = equivariance.measure(shifted, ["1x1o"], ["1x1o"], checks=["rotation"], diagnose=False)
    assert not report.passed
    assert report.settings["trials"] == equivariance.trials

def test_module_declares_its_irreps(equivariance):
    equivariance(o3.FullTensorProduct("1x1o", "1x1o").double(), checks=["rotation"], diagnose=False)

def test_undeclared(equivariance):
    with pytest.raises(VerificationError, match="irreps_in is not given"):
        equivariance(scale)

def test_graph(equivariance):
    from torch_geometric.data import Data
    for given in ((Data(pos=torch.ones(2, 3)),), (Data(pos=torch.ones(2, 3)), "an adapter")):
        with pytest.raises(VerificationError, match="irreps_in is a Data.*verify_model.model, graph, adapter"):
            equivariance(scale, *given)
"""
)

UNUSED = """
import torch

def test_nothing():
    assert torch.get_default_dtype() is torch.float32
"""


@pytest.fixture
def run(root, tmp_path):
    """Run pytest with the plugin on a file, away from this repository's own configuration."""

    def start(source: str, *options: str) -> subprocess.CompletedProcess:
        (tmp_path / "test_models.py").write_text(source)
        plugins = ["-p", "no:tracegrad", "-p", "verify.pytest_plugin", "-p", "no:hypothesispytest"]
        command = [sys.executable, "-m", "pytest", "-q", *plugins, "-p", "no:cacheprovider", *options]
        env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)

    return start


def test_fixture_judges_reports_and_obeys_options(run, tmp_path):
    options = ["--equivariance-trials", "7", "--equivariance-seed", "5", "--equivariance-report", "out"]
    done = run(TESTS, *options, "--junitxml", "junit.xml")
    assert "5 passed" in done.stdout, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    assert "not equivariant" in done.stdout
    assert "counterexample" in done.stdout
    reports = {path.name.rsplit("_", 2)[0]: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}
    assert set(reports) == {
        f"test_models.py_test_{name}" for name in ("sound", "broken", "measured_only", "module_declares_its_irreps")
    }
    broken = reports["test_models.py_test_broken"]
    assert (broken["settings"]["trials"], broken["settings"]["seed"], broken["verdict"]) == (7, 5, "STRUCTURAL")
    properties = ElementTree.parse(tmp_path / "junit.xml").findall(".//testcase[@name='test_sound']//property")
    assert {p.get("name"): p.get("value") for p in properties}["equivariance_1_verdict"] == "PASS"


def test_every_call_leaves_a_report_whatever_the_names_of_the_tests(run, tmp_path):
    many = """
@pytest.mark.parametrize("case", ["1x0e+1x1o", "1x0e 1x1o", "1x0e/" * 60])
def test_case(equivariance, case):
    equivariance(scale, ["1x1o"], ["1x1o"], checks=["rotation"], diagnose=False)
"""
    done = run(MODELS + many, "--equivariance-trials", "2", "--equivariance-report", "out")
    assert "3 passed" in done.stdout, done.stdout + done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_works_under_xdist(run, tmp_path):
    done = run(TESTS, "-n", "2", "--equivariance-report", "out", "--equivariance-trials", "4")
    assert "5 passed" in done.stdout, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_single_precision_is_reported_as_such(run, tmp_path):
    source = MODELS + 'def test_it(equivariance):\n    equivariance(scale, ["1x1o"], ["1x1o"], search=0)\n'
    done = run(source, "--equivariance-dtype", "float32", "--equivariance-report", "out", "--equivariance-trials", "8")
    (path,) = (tmp_path / "out").iterdir()
    assert json.loads(path.read_text())["settings"]["dtype"] == "torch.float32"
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--equivariance-trials", "0"], "expected a positive number"),
        (["--equivariance-trials", "many"], "invalid int value"),
        (["--equivariance-dtype", "float16"], "invalid choice"),
    ],
)
def test_bad_options_are_refused_before_any_test(run, options, message):
    done = run("def test_nothing(): pass", *options)
    assert done.returncode == 4
    assert message in done.stderr + done.stdout


def test_unused_plugin_touches_no_setting_and_prints_nothing(run):
    done = run(UNUSED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equivariance" not in done.stdout


def test_plugin_has_no_automatic_fixture(root):
    text = (root / "verify" / "pytest_plugin.py").read_text()
    assert "autouse" not in text
    assert 'tracegrad = "tracegrad.verify.pytest_plugin"' in (root / "pyproject.toml").read_text()
