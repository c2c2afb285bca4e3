"""The command line: exit codes, messages without tracebacks, JSON that is alone on standard output."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tracegrad
from tracegrad.cli import COMMANDS, build_parser, generate, main
from tracegrad.data import Blocks, Structure, load_dataset, write_deeph
from tracegrad.data.compact import write_compact
from tracegrad.data.convert import open_source
from tracegrad.data.dft import systems
from tracegrad.data.dft.generate import FORMS

ALL = ("train", "evaluate", "predict", "bands", "data", "parity", "import-deephe3", "info", "completion")
ALL += tuple(f"data {action}" for action in ("list", "fetch", "convert", "check", "generate"))

TINY = ["--preset", "smoke"]
for change in ("hidden_irreps=4x0e+4x1o", "embed_dim=4", "num_blocks=1", "num_radial=4", "epochs=2", "loggers=[]",
               "device=cpu", "reference=false", "scaling=none"):  # fmt: skip
    TINY += ["--set", change]


def make_structure(name: str, shells: tuple[int, ...]) -> Structure:
    """Return two carbon atoms with a diagonal Hamiltonian."""
    n = sum(2 * l + 1 for l in shells)
    blocks = {(0, 0, 0, i, j): np.eye(n) * (-5.0 if i == j else 1.0) for i, j in ((0, 0), (1, 1), (0, 1))}
    positions, cell = np.array([[0.0, 0, 0], [1.4, 0, 0]]), np.diag([9.0, 9.0, 9.0])
    orbitals, pbc = {6: shells}, np.ones(3, dtype=bool)
    return Structure(np.array([6, 6]), positions, cell, pbc, orbitals, False, Blocks.from_dict(blocks), name=name)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``MG.h5``, the same with other orbitals, two atoms, and a finished run."""
    folder = tmp_path_factory.mktemp("cli")
    for name, shells in (("MG", (0, 1)), ("other", (0, 0, 1))):
        subsets = ("train", "train", "val", "test")
        structures = [(subset, make_structure(f"{name}_{k}", shells)) for k, subset in enumerate(subsets)]
        write_compact(folder / f"{name}.h5", structures)
    (folder / "two.xyz").write_text("2\n\nC 0 0 0\nC 1.4 0 0\n")
    command = ["train", *TINY, "--dataset", "MG", "--source", str(folder / "MG.h5"), "--setting", "DeepHE3"]
    assert main([*command, "--quiet", "--out", str(folder / "run")]) == 0
    return folder


def test_help_is_fast_and_complete(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys, tracegrad.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    started = time.monotonic()
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 5.0
    assert run.stdout.splitlines()[-1] == "False"
    for name in ALL:
        assert f"\n    {name.split()[0]}" in run.stdout
        with pytest.raises(SystemExit) as leave:
            main([*name.split(), "--help"])
        assert leave.value.code == 0
        text = capsys.readouterr().out
        assert f"examples:\n  tracegrad {name}" in text
        assert "--json" in text
        assert "--quiet" in text


def test_every_example_of_the_help_is_accepted_by_the_parser() -> None:
    lines = []
    for name in ALL:
        parser = build_parser(name.split())
        for part in name.split():
            parser = next(a.choices[part] for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        lines += [line.strip().split("  ")[0].split(">")[0].split() for line in parser.epilog.splitlines()[1:]]
    assert len(lines) >= 30
    for words in lines:
        options = build_parser(words[1:]).parse_args(words[1:])
        assert callable(options.run)


def test_the_choices_of_generate_are_those_of_the_generator() -> None:
    assert (*generate.SYSTEMS,) == (*systems.SYSTEMS,)
    assert (*generate.SPLITS,) == (*systems.SPLIT_OFFSETS,)
    assert generate.FORMS == FORMS


@pytest.mark.parametrize(
    ("line", "expected"),
    [("tracegrad ba", {"bands"}), ("tracegrad data che", {"check"}), ("tracegrad train --prese", {"--preset"})],
)
def test_a_shell_gets_its_completions(line: str, expected: set[str], tmp_path: Path) -> None:
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    answer = tmp_path / "answer"
    environment = {**os.environ, **asked, "_ARGCOMPLETE_STDOUT_FILENAME": str(answer)}
    code = "import sys, tracegrad.cli as c\nc.main([])"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, timeout=60)
    assert {word.strip() for word in answer.read_text().splitlines()} == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_code_for_a_shell_names_the_program(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert "tracegrad" in text
    assert "_ARGCOMPLETE" in text


def test_commands_are_known_by_name_before_they_are_imported() -> None:
    assert {name.split()[0] for name in ALL} == set(COMMANDS)
    with pytest.raises(SystemExit) as leave:
        main(["trian"])
    assert leave.value.code == 2


def test_train_prints_one_json_object_and_nothing_else(files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["train", *TINY, "--dataset", "MG", "--source", str(files / "MG.h5"), "--out", str(files / "json")]
    assert main([*command, "--setting", "DeepHE3+TraceGrad", "--seed", "7", "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert record == json.loads((files / "json" / "run.json").read_text())
    assert (record["seed"], record["setting"], record["preset"]) == (7, "DeepHE3+TraceGrad", "smoke")


def test_quiet_says_nothing_and_the_default_says_the_error(files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["train", *TINY, "--dataset", "MG", "--source", str(files / "MG.h5"), "--setting", "DeepHE3", "--resume"]
    assert main([*command, "--out", str(files / "run"), "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    assert main([*command, "--out", str(files / "run")]) == 0
    text, versions = capfd.readouterr().out, json.loads((files / "run" / "run.json").read_text())["versions"]
    assert "MAE_all" in text
    assert "seed 42" in text
    assert all(f"{name} {versions[name]}" in text for name in ("tracegrad", "torch", "e3nn", "python"))


def test_evaluate_repeats_the_numbers_of_the_run(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, record = files / "run" / "final.ckpt", json.loads((files / "run" / "run.json").read_text())
    command = ["evaluate", str(checkpoint), "--data", str(files / "MG.h5")]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["metrics"] == record["metrics"]
    assert result["trained_on"]["split_sha256"] == record["split_sha256"]
    assert main([*command, "--baseline", str(files / "run" / "run.json")]) == 0
    assert "worst of DeepHE3" in capsys.readouterr().out


def test_a_baseline_of_other_structures_is_refused_before_anything_is_measured(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(*_: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr("tracegrad.evaluation.evaluate_dataset", measure)
    record = json.loads((files / "run" / "run.json").read_text())
    command = ["evaluate", str(files / "run" / "final.ckpt"), "--data", str(files / "MG.h5"), "--baseline"]
    with pytest.raises(AssertionError, match="measured"):
        main([*command, str(files / "run" / "run.json")])
    for metrics in record["metrics"].values():
        metrics["per_structure"] = {"another": 1.0}
    (tmp_path / "other.json").write_text(json.dumps(record))
    assert main([*command, str(tmp_path / "other.json")]) == 2
    assert "expected the same structures as the baseline" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--out", "x"], "expected --config FILE or --preset"),
        (["train", "--preset", "smoke"], "--out DIR is needed"),
        (["train", "--preset", "smoke", "--set", "learnin_rate=1", "--out", "x"], "Did you mean 'learning_rate'"),
        (["train", "--config", "missing.yaml", "--out", "x"], "missing.yaml: cannot be read"),
        (["train", "--preset", "smoke", "--dataset", "MH", "--out", "x"], "Did you mean"),
        (["train", "--preset", "smoke", "--source", "missing.h5", "--out", "x"], "missing.h5"),
        (["train", *TINY, "--set", "device=cuda", "--out", "x"], "expected a CUDA GPU, found none"),
        (["train", *TINY, "--set", "start_from=missing.ckpt", "--out", "x"], "missing.ckpt"),
        (["evaluate", "missing.ckpt", "--data", "MG"], "missing.ckpt: not found"),
        (["evaluate", "FILES/run/config.yaml", "--data", "MG"], "truncated or not a checkpoint"),
        (["evaluate", "FILES/run/last.ckpt", "--data", "MG"], "unfinished run"),
        (["evaluate", "FILES/run/final.ckpt", "--data", "FILES/other.h5"], "made for MG with the shells"),
        (["evaluate", "FILES/run/final.ckpt", "--data", "FILES/MG.h5", "--baseline", "FILES/MG.h5"], "run record"),
        (["evaluate", "missing.ckpt", "--data", "MG", "--baseline", "missing.json"], "missing.json: cannot be read"),
        (["evaluate", "FILES/run/final.ckpt", "--data", "nowhere"], "neither such a path nor such a database exists"),
        (["evaluate", "FILES/run/final.ckpt", "--data", "mg"], "Did you mean 'MG'"),
        (
            ["bands", "MG/MG_test_000", "--out", "x", "--smallest-overlap", "nan"],
            "--smallest-overlap: expected a finite",
        ),
        (["bands", "MG/MG_test_000", "--out", "x", "--smallest-overlap", "-1"], "of at least 0, found -1.0"),
        (["train", *TINY, "--dataset", "MM", "--baseline", "FILES/run/run.json", "--out", "x"], "the same structures"),
        (["info", "--preset", "smok"], "Did you mean 'smoke'"),
        (
            ["evaluate", "FILES/run/final.ckpt", "--data", "MG", "--key", "BB"],
            "--key BB: expected with --data only where",
        ),
        (["bands", "MG/MG_test_000", "--bands", "4", "--dos", "--out", "x"], "expected --bands or --dos, found both"),
    ],
)
def test_wrong_input_gives_a_message_and_exit_code_2(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main([word.replace("FILES", str(files)) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("tracegrad: error: ")
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"] == []


def test_a_folder_with_another_run_is_refused_and_left_alone(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (files / "run").iterdir()}
    command = ["train", *TINY, "--dataset", "MG", "--source", str(files / "MG.h5"), "--out", str(files / "run")]
    assert main(command) == 2
    assert "holds another run; continue it with --resume or give another --out" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in (files / "run").iterdir()} == before


def test_a_key_is_never_taken_for_a_folder_of_that_name(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MG" / "MG_test_000").mkdir(parents=True)
    assert len(open_source("MG")[0]) == 36
    assert main(["bands", "MG/MG_test_000", "--path", "GM", "--points", "2", "--out", "out", "--quiet"]) == 0
    evaluate = ["evaluate", str(files / "run" / "final.ckpt"), "--data"]
    for name, message in (("MG", "made for MG with the shells"), ("./MG", "MG: no DeepH structure in it or below")):
        assert main([*evaluate, name]) == 2
        assert message in capsys.readouterr().err
    assert main(["bands", "./MG/MG_test_000", "--out", "out"]) == 2
    assert "MG/MG_test_000: no DeepH structure" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "cp1251", "cp1252", "utf-8"])  # the first two have no Å
def test_results_are_printed_where_a_letter_is_missing(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    with (tmp_path / "out").open("w", encoding=encoding) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        command = ["predict", str(files / "run" / "final.ckpt"), str(files / "two.xyz"), "--overlap", "none"]
        assert main([*command, "--out", str(tmp_path / "predicted")]) == 0
    text = (tmp_path / "out").read_bytes().decode(encoding)
    assert "cutoff   1.400 " in text
    assert ("Å" in text) == (encoding in ("cp1252", "utf-8"))


def test_options_that_exclude_each_other_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["info", "--options", "--preset", "smoke"])
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize(("limit", "dense"), [(104, True), (103, False)])
def test_spin_counts_where_matrices_are_too_large_to_diagonalise(
    limit: int, dense: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("eigen", "bands", "compare"):
        monkeypatch.setattr(f"tracegrad.physics.{module}.DENSE_LIMIT", limit)
    write_deeph(load_dataset("BB").test[0], tmp_path / "bi")  # 52 orbitals, 104 with spin
    command = ["bands", str(tmp_path / "bi"), "--path", "GM", "--points", "2", "--out", str(tmp_path / "out")]
    assert main([*command, "--predicted", str(tmp_path / "bi"), "--json"]) == 0
    assert ("state_similarity" in json.loads(capsys.readouterr().out)["metrics"]) == dense
    monkeypatch.setattr("tracegrad.physics.bands.MESH_LENGTH", 1.0)
    assert main([*command, "--dos"]) == (0 if dense else 2)
    assert ("at most 103 orbitals (with spin)" in capsys.readouterr().err) != dense


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "run.json"), KeyboardInterrupt()])
def test_failures_of_the_system_end_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    def fail(options: object) -> int:
        raise error

    monkeypatch.setattr("tracegrad.cli.info.run", fail)
    code = main(["info"])
    text = capsys.readouterr().err
    if isinstance(error, OSError):
        assert (code, text) == (2, "tracegrad: error: run.json: No space left on device\n")
    else:
        assert (code, text) == (130, "tracegrad: interrupted\n")


@pytest.mark.parametrize(
    "words",
    [
        ["train", *TINY, "--dataset", "MG", "--source", "FILES/MG.h5", "--setting", "DeepHE3", "--quiet", "--out"],
        ["bands", "MM/MM_test_000", "--path", "GM", "--points", "2", "--out"],
        ["predict", "FILES/run/final.ckpt", "FILES/two.xyz", "--overlap", "none", "--out"],
        ["data", "convert", "FILES/MG.h5", "--to", "deeph"],
    ],
    ids=["train", "bands", "predict", "convert"],
)
def test_a_folder_that_nobody_may_write_to_is_named(
    words: list[str], files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("FILES", str(files)) for word in words]
    place = "/proc/nothing/here"  # not even the superuser makes folders there
    assert main([*words[:3], place, *words[3:]] if words[1] == "convert" else [*words, place]) == 2
    text = capsys.readouterr().err
    assert "tracegrad: error: /proc/nothing" in text
    assert "Traceback" not in text


def test_a_file_that_outgrows_its_limit_leaves_nothing(tmp_path: Path) -> None:
    code = "import resource, sys\nfrom tracegrad.cli import main\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (99999, 99999))\n"
    code += f"sys.exit(main(['data', 'convert', 'MM', {str(tmp_path / 'all.h5')!r}, '--to', 'compact']))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 2, run.stderr
    assert "tracegrad: error: " in run.stderr
    assert "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_info_tells_versions_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"torch", "python", "e3nn"} <= set(facts["versions"])
    assert "MG" in facts["bundled_data"]
    assert main(["info"]) == 0
    assert facts["versions"]["torch"] in capsys.readouterr().out
    assert main(["info", "--options"]) == 0
    assert "training.learning_rate: float = 0.003" in capsys.readouterr().out
    assert main(["info", "--options", "--json"]) == 0
    assert any(row["key"] == "model.hidden_irreps" for row in json.loads(capsys.readouterr().out))
    assert main(["info", "--preset", "smoke"]) == 0
    assert "epochs: 4" in capsys.readouterr().out


def test_configuration_can_be_printed_and_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--preset", "bundled", "--dataset", "BT", "--print-config"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "my.yaml").write_text(text)
    assert main(["train", "--config", str(tmp_path / "my.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == text


def test_public_names_are_found_and_others_are_not() -> None:
    assert tracegrad.__version__ == "0.1.0"
    assert all(getattr(tracegrad, name) is not None for name in tracegrad.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tracegrad.nothing  # noqa: B018
