"""tracegrad-verify: targets, exit codes, messages for bad input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tracegrad.errors import VerificationError
from verify.calibration import calibrate
from verify.cli import main
from verify.result import CheckResult, NoiseFloor, Report, Verdict
from verify.targets import Target, as_target, load_target

TARGETS = """
import torch
from ase import Atoms
from ase.calculators.lj import LennardJones
from e3nn import o3

from verify import Target

V = ["4x1o"]
layer = o3.Linear("4x0e+4x1o", "2x0e+4x1o")
number = 3

def sound():
    return (lambda x: 2 * x, ["4x1o"], ["4x1o"])

def broken():
    return (torch.tanh, ["4x1o"], ["4x1o"])

def chiral():
    return (lambda x, y: x + torch.linalg.cross(x, y), ["1x1o", "1x1o"], ["1x1o"])

def zero():
    return (lambda x: 0 * x, ["4x1o"], ["4x1o"])

def module():
    return layer

def calculator():
    return LennardJones(rc=10.0, smooth=True), Atoms("Ar3", positions=[[0, 0, 0], [1.2, 0.1, 0.3], [0.2, 1.1, 0.5]])

def wrong_outputs():
    return (lambda x: (x, x), ["4x1o"], ["4x1o"])

def nothing():
    return None

def irreps_that_do_not_fit():
    return (lambda x: x, ["4x1o"], ["2x2e"])

def inputs_that_do_not_fit():
    return Target(lambda x: x, V, V, inputs=[torch.ones(3, 9)])

def empty_batch():
    return Target(lambda x: x, V, V, inputs=[torch.ones(0, 12)])

def integers():
    return Target(lambda x: x, V, V, inputs=[torch.ones(3, 12, dtype=torch.int64)])

def not_numbers():
    return Target(lambda x: x, V, V, inputs=[torch.full((3, 12), torch.nan)])

def output_without_rows():
    return (lambda x: x[:0], V, V)

def output_of_nans():
    return (lambda x: x * torch.nan, V, V)

def raises():
    raise RuntimeError("no weights")
"""

FAST = ["--trials", "8", "--search", "4"]


@pytest.fixture(autouse=True)
def targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module with factories in the working directory."""
    (tmp_path / "verified_things.py").write_text(TARGETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("verified_things", None)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("sound", 0),
        ("module", 0),
        ("layer", 0),
        ("calculator", 0),
        ("broken", 1),
        ("zero", 3),
        ("output_without_rows", 3),
        ("output_of_nans", 3),
    ],
)
def test_exit_code_is_the_verdict_of_the_target(name: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--target", f"verified_things:{name}", *FAST]) == code
    printed = capsys.readouterr().out
    assert "noise floor" in printed
    assert f"(exit code {code})" in printed


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("no_such_module:thing", "importing no_such_module raised ModuleNotFoundError"),
        ("verified_things:no_such", "has no 'no_such'"),
        ("verified_things", "expected package.module:factory"),
        ("verified_things:number", "is a int"),
        ("verified_things:nothing", "returned a NoneType"),
        ("verified_things:raises", "no weights"),
        ("verified_things:wrong_outputs", "returned 2 output"),
        ("verified_things:irreps_that_do_not_fit", "needs a last axis of 10"),
        ("verified_things:inputs_that_do_not_fit", "needs a last axis of 12"),
        ("verified_things:empty_batch", "an empty batch verifies nothing"),
        ("verified_things:integers", "expected floating point"),
        ("verified_things:not_numbers", "NaN or infinity"),
    ],
)
def test_bad_target_exits_with_two_and_one_sentence(spec: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--target", spec, *FAST]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_missing_checkpoint_exits_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--checkpoint", "none.ckpt"]) == 2
    assert "none.ckpt" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [
        ["--trials", "0"],
        ["--seed", "-1"],
        ["--search", "-2"],
        ["--tol", "nan"],
        ["--tol", "0"],
        ["--tol", "1"],
        ["--baseline", "no.json"],
    ],
)
def test_settings_with_which_anything_would_pass_exit_with_two(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--target", "verified_things:sound", *FAST, *option]) == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--workers", "0"], ["--seed", "-1"], ["--budget-mev", "-1"]])
def test_bad_settings_of_the_package_exit_with_two(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--parts", "method", *option]) == 2
    assert "expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", ["--checks nonsense", "--trials 0", "--allow-zero 0o", "--no-parity", "--atoms 3", "--dtype float32"]
)
def test_option_of_a_target_exits_with_two_where_there_is_none(
    option: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = Report("tracegrad", [CheckResult("rotation", Verdict.PASS, 0.0, 1e-14)], NoiseFloor({}, {}))
    monkeypatch.setattr("verify.suite.run_suite", lambda **settings: passed)
    assert main(["--parts", "method", *option.split()]) == 2
    assert option.split()[0] in capsys.readouterr().err
    assert main(["--parts", "method", "--quiet", "--dtype", "float64"]) == 0


def test_target_that_claims_rotations_alone_passes_without_parity() -> None:
    arguments = ["--target", "verified_things:chiral", *FAST]
    assert main(arguments) == 1
    assert main([*arguments, "--no-parity"]) == 0


def test_budget_for_a_function_exits_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--target", "verified_things:sound", "--budget-mev", "1"]) == 2
    assert "eV" in capsys.readouterr().err


def test_unknown_check_and_unknown_part_name_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--target", "verified_things:sound", "--checks", "rotaton"]) == 2
    assert "rotation" in capsys.readouterr().err
    assert main(["--parts", "theorem"]) == 2
    assert "method" in capsys.readouterr().err


def test_single_precision_is_a_budget_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--target", "verified_things:layer", "--dtype", "float32", *FAST]) == 0
    assert "rotation" in capsys.readouterr().out


def test_report_folder_holds_what_was_printed(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert main(["--target", "verified_things:broken", "--report", str(folder), *FAST]) == 1
    report = json.loads((folder / "report.json").read_text())
    assert report["target"] == "verified_things:broken"
    assert report["exit_code"] == 1
    assert report["settings"]["trials"] == 8


def test_quiet_prints_the_verdict_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--target", "verified_things:sound", "--quiet", *FAST]) == 0
    assert capsys.readouterr().out == "verdict: PASS (exit code 0)\n"


def test_too_much_noise_of_the_harness_exits_with_four(monkeypatch: pytest.MonkeyPatch) -> None:
    import verify.runner as runner

    monkeypatch.setattr(runner, "self_check", lambda lmax: NoiseFloor({"homomorphism": 1e-6}, {"homomorphism": 4e-15}))
    assert main(["--target", "verified_things:sound", *FAST]) == 4


def test_factory_may_return_a_target() -> None:
    target = Target(torch.tanh, ["1x1o"], ["1x1o"])
    assert as_target(target, "x") is target
    assert load_target("verified_things:sound").irreps_in == ["4x1o"]


def test_third_entry_beside_a_graph_must_be_an_adapter() -> None:
    from ase import Atoms

    class Mine:
        def specs(self) -> None: ...

    made = (torch.nn.Identity(), Atoms("H"), Mine())
    with pytest.raises(VerificationError, match="Mine lacks evaluate"):
        as_target(made, "x")
    with pytest.raises(VerificationError, match="Mine lacks evaluate"):
        Target(made[0], graph=made[1], adapter=made[2]).verify()
    assert as_target((torch.tanh, ["1x1o"], ["1x1o"]), "x").irreps_in == ["1x1o"]


def test_declared_irreps_are_required_of_a_module() -> None:
    with pytest.raises(VerificationError, match=r"does not declare.*the factory of a --target returns \(func,"):
        as_target(torch.nn.Linear(3, 3), "x").verify()


def test_target_without_an_adapter_is_told_what_a_factory_returns() -> None:
    from torch_geometric.data import Data

    made = (torch.nn.Linear(3, 3), Data(pos=torch.ones(2, 3)))
    with pytest.raises(VerificationError, match=r"a --target returns \(model, graph, adapter\)"):
        as_target(made, "x").verify()


def test_baseline_that_grew_tenfold_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = load_target("verified_things:module").verify(checks=["rotation"], trials=8, search=4).checks[0].error
    old = Report("x", [CheckResult("rotation", Verdict.PASS, 1e-30, 1e-14)], NoiseFloor({"a": 1e-30}, {"a": 1e-14}))
    (tmp_path / "old.json").write_text(old.to_json())
    import verify.runner as runner

    monkeypatch.setattr(runner, "self_check", lambda lmax: NoiseFloor({"a": 1e-30}, {"a": 4e-15}))
    arguments = ["--target", "verified_things:module", "--checks", "rotation", *FAST]
    assert main([*arguments, "--tol", str(2 * error)]) == 0
    assert main([*arguments, "--tol", str(2 * error), "--baseline", str(tmp_path / "old.json")]) == 1
    assert main([*arguments, "--tol", str(20 * error), "--baseline", str(tmp_path / "old.json")]) == 0
    assert main([*arguments, "--baseline", str(tmp_path / "missing.json")]) == 2


def test_checkpoint_of_this_package_is_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tracegrad.config import load_config
    from tracegrad.data import load_dataset
    from tracegrad.training.checkpoint import DataSummary, make_network, save_checkpoint

    config = load_config(preset="smoke", dataset="MG", setting="DeepHE3+TraceGrad")
    data = DataSummary.of(load_dataset("MG"))
    save_checkpoint(tmp_path / "final.ckpt", make_network(config.model, data), config, data, {})
    checks = "rotation,inversion,translation,node_permutation,hermiticity,vacuity"
    code = main(["--checkpoint", str(tmp_path / "final.ckpt"), "--checks", checks, "--atoms", "3", "--trials", "4"])
    assert code == 0, capsys.readouterr().out


def test_checkpoint_whose_data_stand_elsewhere_is_verified_with_their_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tracegrad.config import load_config
    from tracegrad.data import DATABASES, load_dataset
    from tracegrad.training.checkpoint import DataSummary, make_network, save_checkpoint

    (tmp_path / "own.h5").write_bytes(DATABASES["MG"].bundled_paths[0].read_bytes())
    config = load_config(preset="smoke", dataset="MG", setting="DeepHE3")
    data = DataSummary.of(load_dataset("MG", "own.h5"))
    save_checkpoint(tmp_path / "final.ckpt", make_network(config.model, data), config, data, {})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    arguments = ["--checkpoint", "../final.ckpt", "--checks", "inversion", "--atoms", "2", "--trials", "2"]
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert "own.h5: not found" in printed
    assert "as --data" in printed
    assert main([*arguments, "--data", "../own.h5"]) == 0
    assert main([*arguments, "--data", "../no.h5"]) == 2
    assert "was trained on" not in capsys.readouterr().err  # that path is one's own


def test_calibration_finds_sound_networks_well_below_the_tolerance(tmp_path: Path) -> None:
    record = calibrate(tmp_path / "floor.json", seeds=1, trials=4)
    assert record == json.loads((tmp_path / "floor.json").read_text())
    assert 0 < record["worst"] < 1
    assert record["ok"]


def test_help_names_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "4 harness noise" in capsys.readouterr().out


def test_seed_changes_what_is_drawn() -> None:
    target = load_target("verified_things:module")
    errors = {target.verify(seed=s, checks=["rotation"], trials=4).check("rotation").error for s in range(3)}
    assert len(errors) > 1
    assert np.isfinite(list(errors)).all()
