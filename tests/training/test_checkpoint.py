"""Checkpoints: complete, and refused when damaged, of another kind, or for other data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracegrad.config import Config
from tracegrad.data import Dataset
from tracegrad.errors import CheckpointError
from tracegrad.evaluation import evaluate_dataset
from tracegrad.training import load_checkpoint, save_checkpoint, train
from tracegrad.training.checkpoint import DataSummary, check_same_data, make_network, read_tensors, start_from
from tracegrad.training.resume import random_states, set_random_states

Tiny = Callable[..., Config]


class Payload:
    """An object that would run code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Ask for a call of ``print``."""
        return print, ("code was run",)


@pytest.fixture
def checkpoint(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> Path:
    """Return the checkpoint of an untrained network."""
    config, data = tiny(), DataSummary.of(dataset)
    path = tmp_path / "final.ckpt"
    save_checkpoint(path, make_network(config.model, data), config, data, {"epochs": 0})
    return path


def test_cutoffs_of_pairs_are_kept_and_older_records_have_none(dataset: Dataset) -> None:
    data = DataSummary.of(dataset, 6.9, {(16, 16): 5.5, (16, 42): 6.2})
    assert DataSummary.from_dict(data.to_dict()) == data
    assert json.loads(json.dumps(data.to_dict())) == data.to_dict()
    older = {key: value for key, value in data.to_dict().items() if key != "pair_cutoffs"}
    assert DataSummary.from_dict(older) == DataSummary.of(dataset, 6.9)


def test_loaded_network_predicts_the_same(tiny: Tiny, dataset: Dataset, tmp_path: Path, dtype: torch.dtype) -> None:
    data, checkpoint = DataSummary.of(dataset), tmp_path / "final.ckpt"
    saved = make_network(tiny().model, data).to(dtype)
    with torch.no_grad():
        for parameter in saved.parameters():
            parameter += 0.1 * torch.rand_like(parameter)  # in float64: digits that float32 does not have
    save_checkpoint(checkpoint, saved, tiny(), data, {"epochs": 0})
    model, config, rest = load_checkpoint(checkpoint)
    wanted, found = saved.state_dict(), model.state_dict()
    assert wanted.keys() == found.keys()
    assert all(found[name].dtype == wanted[name].dtype and torch.equal(found[name], wanted[name]) for name in wanted)
    assert config == tiny()
    assert rest["data"] == DataSummary.of(dataset)
    assert rest["info"]["versions"]["torch"] in (torch.__version__, torch.__version__.split("+")[0])  # CUDA: "+cu121"
    assert not model.training
    assert evaluate_dataset(model, dataset) == evaluate_dataset(saved, dataset)
    other = make_network(config.model, DataSummary.of(dataset))
    assert evaluate_dataset(other, dataset) != evaluate_dataset(model, dataset)


def test_checkpoint_holds_tensors_and_plain_data_only(checkpoint: Path) -> None:
    def kinds(value: object) -> set[str]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return {type(value).__name__}.union(*(kinds(entry) for entry in inner))

    plain = {"dict", "list", "str", "int", "float", "bool", "NoneType"}
    assert kinds(read_tensors(checkpoint)) <= {*plain, "Tensor", "OrderedDict"}


def test_other_files_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    cases = {
        "missing.ckpt": (None, "not found"),
        "text.ckpt": (b"epochs: 3\n", "truncated or not a checkpoint"),
        "empty.ckpt": (b"", "truncated or not a checkpoint"),
        "half.ckpt": (checkpoint.read_bytes()[: checkpoint.stat().st_size // 2], "truncated or not a checkpoint"),
    }
    for name, (content, message) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=message) as error:
            load_checkpoint(tmp_path / name)
        assert name in str(error.value)
    with pytest.raises(CheckpointError, match="not found"):
        load_checkpoint(tmp_path)


def test_other_contents_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    good = read_tensors(checkpoint)
    other_weights = {**good["state_dict"], "decoder.linear.weight": torch.zeros(3)}
    cases: dict[str, tuple[object, str]] = {
        "list": ([1, 2], "expected a dictionary, found list"),
        "foreign": (
            {"model": torch.zeros(2)},
            r"expected a trained network .*, found a dictionary with the keys model",
        ),
        "state": ({"pytorch-lightning_version": "2"}, "the state of an unfinished run; the file to use is final.ckpt"),
        "future": ({**good, "format": 99}, "expected format 1, found 99"),
        "weights": ({**good, "state_dict": other_weights}, "do not fit"),
        "none": ({**good, "state_dict": {}}, "do not fit"),
        "config": ({**good, "config": {"modle": {}}}, "do not fit .*unknown key 'modle'"),
        "no data": ({k: v for k, v in good.items() if k != "data"}, "do not fit"),
    }
    for name, (content, message) in cases.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(tmp_path / name)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"kind": Payload()}, tmp_path / "bad.ckpt")
    with pytest.raises(CheckpointError, match="not read for safety"):
        load_checkpoint(tmp_path / "bad.ckpt")
    assert "code was run" not in capsys.readouterr().out


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_checkpoints_are_refused_or_read(checkpoint: Path, data: st.DataObject) -> None:
    content = bytearray(checkpoint.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = checkpoint.with_name("damaged.ckpt")
    damaged.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        message = str(load_checkpoint(damaged)[1])
    except CheckpointError as error:
        message = str(error)
    assert message.startswith("Config(") or "damaged.ckpt" in message


def test_data_with_other_orbitals_or_spin_are_refused(dataset: Dataset) -> None:
    data = DataSummary.of(dataset)
    check_same_data("x", data, {6: (0, 1)}, False)  # fewer elements are fine
    for orbitals, spinful in (({6: (0, 0, 1)}, False), ({6: (0, 1), 8: (0, 1)}, False), ({6: (0, 1)}, True)):
        with pytest.raises(CheckpointError, match="x: made for toy with the shells"):
            check_same_data("x", data, orbitals, spinful)


def test_failed_write_leaves_the_old_file(tiny: Tiny, dataset: Dataset, checkpoint: Path) -> None:
    before = checkpoint.read_bytes()
    config, data = tiny(), DataSummary.of(dataset)
    with pytest.raises(Exception, match=r"pickle|serializ|lambda"):
        save_checkpoint(checkpoint, make_network(config.model, data), config, data, {"bad": lambda: None})
    assert checkpoint.read_bytes() == before
    assert [path.name for path in checkpoint.parent.iterdir()] == ["final.ckpt"]


def test_state_of_an_unfinished_run_is_not_taken_for_a_network(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    train(tiny(training={"epochs": 1}), tmp_path / "run", quiet=True, dataset=dataset)
    with pytest.raises(CheckpointError, match="unfinished run"):
        load_checkpoint(tmp_path / "run" / "last.ckpt")


def test_random_states_are_brought_back(tmp_path: Path) -> None:
    import random

    import numpy as np

    torch.save(random_states(), tmp_path / "states")
    first = (torch.rand(1).item(), np.random.rand(), random.random())  # noqa: NPY002
    set_random_states(torch.load(tmp_path / "states", weights_only=True))
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == first  # noqa: NPY002
    assert (torch.rand(1).item(), np.random.rand(), random.random()) != first  # noqa: NPY002


def test_a_run_can_start_from_the_baseline_below_a_new_operator(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    base = tiny(model={"setting": "DeepHE3", "reference": True}, training={"epochs": 2})
    first = train(base, tmp_path / "base", quiet=True, dataset=dataset)
    data, start = DataSummary.of(dataset), load_checkpoint(first)[0]
    grown = tiny(
        model={"setting": "DeepHE3+Grad", "reference": True, "operator_gain": 0.0, "operator_gain_learned": True},
        training={"start_from": str(first), "epochs": 1, "learning_rate": 0.0},
    )
    model = make_network(grown.model, data).double()
    fresh = evaluate_dataset(model, dataset)
    lacking = start_from(first, model, grown.model, data)
    assert lacking
    assert all("induction" in name or "gain" in name for name in lacking)
    assert evaluate_dataset(model, dataset) == evaluate_dataset(start, dataset) != fresh, (
        "an operator of gain 0 is silent"
    )
    second = train(grown, tmp_path / "grown", quiet=True, dataset=dataset)
    assert evaluate_dataset(load_checkpoint(second)[0], dataset) == evaluate_dataset(start, dataset)
    wide = tiny(model={"hidden_irreps": "6x0e+4x1o+2x2e"}).model
    wider = make_network(wide, data)
    with pytest.raises(CheckpointError, match="its tensors do not fit this network"):
        start_from(first, wider, wide, data)


def test_no_number_of_a_float64_run_is_rounded_to_float32(tiny: Tiny, dataset: Dataset, tmp_path: Path) -> None:
    model = {"setting": "DeepHE3", "reference": True, "scaling": "channel"}
    first = train(tiny(model=model, training={"epochs": 1}), tmp_path / "first", quiet=True, dataset=dataset)
    kept = {"start_from": str(first), "epochs": 1, "learning_rate": 0.0, "select": "last"}
    second = train(tiny(model=model, training=kept), tmp_path / "second", quiet=True, dataset=dataset)
    wanted = read_tensors(first)["state_dict"]
    full = [name for name, tensor in wanted.items() if not torch.equal(tensor, tensor.float().double())]
    assert {"embedding.weight", "output.loop_mean", "output.pair_splines", "output.pair_shapes"} <= set(full)
    for found in (read_tensors(second)["state_dict"], load_checkpoint(first)[0].state_dict()):
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    single = {"start_from": "", "dtype": "float32"}
    third = train(tiny(model=model, training={**kept, **single}), tmp_path / "third", quiet=True, dataset=dataset)
    rounded = read_tensors(third)["state_dict"]
    assert not torch.equal(rounded["output.loop_mean"].double(), wanted["output.loop_mean"])  # the control
