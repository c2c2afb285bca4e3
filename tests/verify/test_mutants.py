"""The verifier finds every planted fault, flags no sound control, and the small network is what it says it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from e3nn import o3

from tracegrad.errors import VerificationError
from verify.mutants import bases, false_alarms, geometry
from verify.mutants.__main__ import main
from verify.mutants.activations import on, silu
from verify.mutants.catalogue import CATALOGUE, CONTROLS, FAULTS, entry
from verify.mutants.false_alarms import count_false_alarms
from verify.mutants.frames import EdgeFrameLayer
from verify.mutants.matrix import judge, kill_matrix, run_entry, verify_mutant
from verify.mutants.network import INPUT, OUTPUT, STAGES, Network, spherical_harmonics
from verify.mutants.side_by_side import e3nn_failures
from verify.result import CheckResult, Verdict

KINDS = {"M": 48, "T": 3, "V": 3, "F": 7, "C": 16}
DEMANDING = [
    "M4",
    "M5",
    "M21",
    "M27",
    "M29",
    "M32",
    "M35",
    "M38",
    "M39",
    "M41",
    "M42",
    "M43",
    "M44",
    "M45",
    "F5",
    "M46",
    "M47",
    "M48",
]
"""Faults that a rotation check alone, or an absolute tolerance, does not find."""


@pytest.fixture
def inputs(generator):
    positions = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    return positions, torch.randn(7, INPUT.dim, generator=generator, dtype=torch.float64)


def test_catalogue_holds_every_number():
    for letter, count in KINDS.items():
        assert {f"{letter}{n}" for n in range(1, count + 1)} <= set(CATALOGUE)
    assert len(CATALOGUE) == len(FAULTS) + len(CONTROLS)
    assert all((m.build is None) != (m.run is None) for m in CATALOGUE.values())


def test_unknown_key_names_the_nearest():
    with pytest.raises(VerificationError, match="M1"):
        entry("m1")


@pytest.mark.parametrize("key", DEMANDING)
def test_demanding_faults_are_killed_by_the_check_meant_for_them(key):
    outcome = run_entry(key, search=0)
    assert outcome.killed
    assert outcome.expected in outcome.checks


@pytest.mark.parametrize("key", [m.key for m in FAULTS if m.run is not None])
def test_faults_of_the_method_are_killed(key):
    assert run_entry(key).killed


@pytest.mark.parametrize("key", [m.key for m in CONTROLS])
def test_controls_are_not_flagged(key):
    outcome = run_entry(key, seed=1, trials=8, search=4)
    assert not outcome.killed, outcome.line()


def test_low_precision_of_a_radial_basis_is_reported_as_precision_and_not_as_a_broken_symmetry():
    checks = {c.name: c for c in verify_mutant(entry("C13"), 0, 16, 0)}
    assert checks["rotation"].passed
    assert checks["dtype_leak"].verdict is Verdict.PRECISION


def test_index_dependence_is_flagged_unless_it_is_declared():
    undeclared = replace(entry("C8"), without=())
    assert "node_permutation" in judge(undeclared, verify_mutant(undeclared, 0, 8, 0)).checks


def test_a_control_that_loses_digits_elsewhere_is_flagged():
    checks = [CheckResult("rotation", Verdict.PRECISION, 1e-7, 1e-14)]
    assert judge(entry("C13"), checks).killed
    assert judge(entry("C13"), [replace(checks[0], name="dtype_leak")]).killed is False
    assert judge(entry("C13"), [replace(checks[0], name="dtype_leak", verdict=Verdict.STRUCTURAL)]).killed


def test_network_is_equivariant_with_its_parities(inputs):
    positions, features = inputs
    network = Network(3)
    R = -o3.matrix_x(torch.tensor(0.7, dtype=torch.float64)) @ o3.matrix_y(torch.tensor(1.1, dtype=torch.float64))
    torch.set_default_dtype(torch.float64)
    moved = network(positions @ R.T, features @ INPUT.D_from_matrix(R).T)
    torch.testing.assert_close(moved, network(positions, features) @ OUTPUT.D_from_matrix(R).T, rtol=0, atol=1e-12)


def test_every_hidden_irrep_is_alive_and_every_output_hears_the_hidden_features(inputs):
    """A fault behind a dead irrep could not be found."""
    positions, features = inputs
    sound = Network(0)(positions, features)
    heard = torch.zeros(OUTPUT.dim, dtype=torch.bool)
    for ir in ("0e", "0o", "1o", "1e", "2e"):
        without = Network(0, {"hidden": on(ir, lambda part, context: 0 * part)})(positions, features)
        changed = (sound - without).abs().amax(0) > 1e-3
        assert int(changed.sum()) >= 4
        heard |= changed
    assert heard.all()


def test_faults_change_the_network(inputs):
    """A fault that changes nothing would make the matrix easy."""
    positions, features = inputs
    sound = Network(0)(positions, features)
    conditional = {"M21", "M27", "M31"}
    values_only = {"M40", "M41", "M42"}
    hidden = {"M46", "M47"}  # by the mode, by a weight of zero
    for mutant in FAULTS:
        if mutant.build is None or mutant.key in conditional | values_only | hidden or mutant.key.startswith("F"):
            continue
        subject = mutant.build(0)
        with torch.no_grad():
            changed = subject.func(positions.clone(), features.clone())
        assert not torch.equal(sound, changed), mutant.key


def test_conditional_faults_are_active_where_they_should_be():
    near_pole = torch.tensor([[0.05, 1.0, 0.02]], dtype=torch.float64)
    away = torch.tensor([[0.5, 1.0, 0.2]], dtype=torch.float64)
    for vectors, active in ((near_pole, True), (away, False)):
        unit = torch.nn.functional.normalize(vectors, dim=1)
        harmonics = spherical_harmonics(unit)
        context = type("Context", (), {"vectors": vectors})()
        assert (not torch.equal(geometry.pole_branch(harmonics, context), harmonics)) is active
    part = torch.tensor([[[1.0, 2.0, 3.0]]], dtype=torch.float64)
    assert torch.equal(geometry.overflow_branch(part, None), part)
    assert not torch.equal(geometry.overflow_branch(3 * part, None), 3 * part)


def test_own_harmonics_are_those_of_e3nn(generator):
    vectors = torch.nn.functional.normalize(torch.randn(9, 3, generator=generator, dtype=torch.float64), dim=1)
    expected = o3.spherical_harmonics([0, 1, 2], vectors, normalize=False, normalization="component")
    torch.testing.assert_close(spherical_harmonics(vectors), expected, rtol=0, atol=1e-13)


def test_broken_couplings_differ_from_the_sound_ones_in_the_named_place_only():
    flipped = bases.flipped_sign(1, 1, 2)
    sound = bases.sound_coupling(1, 1, 2)
    assert int((flipped != sound).sum()) == 1
    assert torch.equal(bases.flipped_sign(1, 2, 2), bases.sound_coupling(1, 2, 2))
    dropped = bases.small_entries_dropped(2, 2, 2)
    assert 0 < int((dropped != 0).sum()) < int((bases.sound_coupling(2, 2, 2) != 0).sum())


def test_edge_frame_layer_is_sound_at_the_pole_with_atan2_and_loses_digits_with_acos():
    features = torch.randn(1, 18, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    on_axis = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    tilted = torch.tensor([[3e-9, 1.0, 4e-9]], dtype=torch.float64)
    errors = {}
    for kind in ("atan2", "acos"):
        layer = EdgeFrameLayer(kind, 0)
        with torch.no_grad():
            angles = layer.angles(tilted)
        errors[kind] = abs(float(angles[1]) - 5e-9)
        assert torch.isfinite(layer(on_axis, features)).all()
    assert errors["atan2"] < 1e-20
    assert errors["acos"] > 1e-9


def test_stages_are_in_the_order_of_the_forward_pass(inputs):
    seen: list[str] = []

    def spy(name):
        return lambda value, context: (seen.append(name), value)[1]

    Network(0, {name: spy(name) for name in STAGES})(*inputs)
    assert sorted(seen) == sorted(STAGES)
    assert seen[-1] == "output"
    assert seen.index("mixed") < seen.index("hidden")


def test_localisation_names_the_stage_of_the_fault():
    from verify import verify_equivariance

    network = Network(0, {"mixed": on("1o", silu)})
    report = verify_equivariance(network, network.irreps_in, [network.irreps_out], trials=8, search=0)
    assert report.culprit is not None
    assert "mixed" in report.culprit.name


def test_matrix_prints_in_order_and_passes(capsys):
    lines: list[str] = []
    matrix = kill_matrix(["T1", "F2", "CT"], progress=lambda o: lines.append(o.line()))
    assert matrix.passed
    assert [line.split()[0] for line in lines] == ["T1", "F2", "CT"]
    assert main(["matrix", "--keys", "T1", "CT", "--workers", "1"]) == 0
    assert "1 of 1 faults killed, 0 of 1 controls flagged" in capsys.readouterr().out
    assert main(["matrix", "--keys", "T99"]) == 2


def test_matrix_in_two_processes_equals_the_one_in_this_process():
    keys = ["T1", "V1", "CV"]
    here, there = kill_matrix(keys), kill_matrix(keys, workers=2)
    assert [replace(o, seconds=0.0) for o in here.outcomes] == [replace(o, seconds=0.0) for o in there.outcomes]


def test_matrix_is_written_as_table_and_picture(tmp_path):
    assert main(["matrix", "--keys", "T1", "CT", "--workers", "1", "--out", str(tmp_path)]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"kill_matrix.md", "kill_matrix.png", "kill_matrix.svg"}


@pytest.fixture
def quick_controls(monkeypatch):
    """Control runs that take no time: C3 is flagged with seed 4, all else passes; the pairs that were run."""
    made = []

    def run(key, seed):
        made.append((key, seed))
        flagged = (key, seed) == ("C3", 4)
        found = [
            CheckResult("rotation", Verdict.STRUCTURAL if flagged else Verdict.PASS, 0.5 if flagged else 1e-15, 1e-14)
        ]
        return judge(entry(key), found)

    monkeypatch.setattr(false_alarms, "run_entry", run)
    return made


def test_false_alarms_are_counted_over_seeds(quick_controls):
    sound = count_false_alarms(2, seed=3)
    assert (len(sound.runs), sound.flagged) == (2, ())
    assert "0 false alarms in 2 control runs (at 95 % confidence at most 78 % of runs)" in sound.line()
    tally = count_false_alarms(2 * len(CONTROLS), seed=3)
    assert [(run.key, run.seed) for run in tally.flagged] == [("C3", 4)]
    assert f"1 false alarms in {2 * len(CONTROLS)} control runs" in tally.line()
    assert tally.line().endswith("C3 seed 4: rotation")


def test_false_alarms_go_on_where_they_stopped(quick_controls, tmp_path):
    record = tmp_path / "runs.jsonl"
    first = count_false_alarms(5, record=record)
    record.write_text(record.read_text() + '{"key": "C6", "se')  # stopped in the middle of a line
    quick_controls.clear()
    second = count_false_alarms(8, record=record)
    assert quick_controls == [("C6", 0), ("C7", 0), ("C8", 0)]
    assert second.runs[:5] == first.runs
    assert second == count_false_alarms(8)


def test_bad_record_and_no_runs_are_refused(tmp_path, capsys):
    (tmp_path / "runs.jsonl").write_text("[]\n")
    assert main(["false-alarms", "--runs", "1", "--record", str(tmp_path / "runs.jsonl")]) == 2
    assert "line 1" in capsys.readouterr().err
    assert main(["false-alarms", "--runs", "0"]) == 2


def test_a_real_control_run_reports_its_margin():
    run = false_alarms.control_run(("CV", 2))
    assert not run.flagged
    assert 1 < run.margin < 1e6


def test_side_by_side_prints_both_tools_and_draws_the_matrix(tmp_path, capsys):
    assert main(["e3nn", "--keys", "T1", "CT", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "side_by_side.md").read_text()
    assert "This verifier: 1 of 1 faults killed, 0 of 1 controls flagged." in text
    assert text in capsys.readouterr().out
    assert (tmp_path / "kill_matrix.png").exists()


@pytest.mark.parametrize(("key", "failures"), [("M1", 5), ("M4", 0), ("M35", 0), ("M43", 0), ("C14", 0), ("T1", None)])
def test_side_by_side_reproduces_what_e3nn_finds_and_misses(key, failures):
    assert e3nn_failures(entry(key)) == failures
