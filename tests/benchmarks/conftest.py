"""A training command that trains nothing: it counts steps, can be resumed, and writes a record with made-up numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.plan import Conditions

# Arguments: FOLDER (its own notes) STEPS SECONDS_PER_STEP FAILING_SETTING LOSS (the last one), then those of
# `tracegrad train`.
TRAINER = """
import json, os, pathlib, sys, time

from tracegrad.config import load_config

notes, steps, pause, failing = pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
loss, words = sys.argv[5], sys.argv[6:]
given = dict(zip(words, words[1:]))
changes = dict(text.split("=", 1) for word, text in zip(words, words[1:]) if word == "--set")
out = pathlib.Path(given["--out"])
seed = int(changes["training.seed"])
name = f"{given['--dataset']} {given['--setting']} {seed}"
with (notes / "starts.txt").open("a") as stream:
    print(name, file=stream)
out.mkdir(parents=True, exist_ok=True)
assert not (out / "running").exists(), "two trainings in one folder"
if "--resume" not in words:
    sys.exit("expected --resume")
if given["--setting"] == failing:
    print("the cat sat on the keyboard")
    sys.exit(3)
state = out / "state"
first = int(state.read_text()) if state.exists() else 0
for step in range(first, steps):
    time.sleep(pause)
    (out / "next").write_text(str(step + 1))
    (out / "next").replace(state)  # a training may be killed at any moment
    with (notes / "steps.txt").open("a") as stream:
        print(name, step, file=stream)
overrides = [text for word, text in zip(words, words[1:]) if word == "--set"]
config = load_config(
    preset=given["--preset"], dataset=given["--dataset"], setting=given["--setting"], overrides=overrides
)
subsets = ("all",) if given["--dataset"] in ("MG", "MM") else ("nt", "t")
errors = {"mae_all": 2.0, "mae_cha_sample": 3.0, "mae_cha_block": 4.0, "cha_reference": "self",
          "mae_block": {"s1-s1": 4.0}, "per_structure": {"a": 3.0, "b": 1.0}}
record = {"dataset": given["--dataset"], "setting": given["--setting"], "seed": seed,
          "source": json.loads(changes["data.source"]), "preset": given["--preset"], "recipe": "fast",
          "metrics": {subset: errors for subset in subsets}, "parameters": 10, "train_seconds": 1.5, "epochs": 4.0,
          "steps": steps, "git_commit": None, "split_sha256": "f" * 64, "versions": {}, "device": "cpu, 1 threads",
          "config": config.to_dict()}
rows = ("step,epoch,seconds,val_loss,val_mae", "1,1,0.5,2.0,", "2,1,0.7,,", f"3,2,1.5,{loss},7.0", "")
(out / "history.csv").write_text("\\n".join(rows))
(out / "run.tmp").write_text(json.dumps(record))
os.replace(out / "run.tmp", out / "run.json")
print("MAE_all 2.0")
"""


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., tuple[str, ...]]:
    """Make a training command; its notes go to ``tmp_path/notes``."""
    (tmp_path / "notes").mkdir()
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER, encoding="utf-8")

    def make(steps: int = 2, pause: float = 0.0, failing: str = "none", loss: str = "1.0") -> tuple[str, ...]:
        return (sys.executable, str(script), str(tmp_path / "notes"), str(steps), str(pause), failing, loss)

    return make


@pytest.fixture
def notes(tmp_path: Path) -> Callable[[str], list[str]]:
    """Read what the trainings noted: ``starts`` or ``steps``."""

    def read(kind: str) -> list[str]:
        path = tmp_path / "notes" / f"{kind}.txt"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    return read


@pytest.fixture(scope="session")
def finished() -> Callable[..., dict[str, Any]]:
    """Make the record of a finished run from the fields that matter to a test; the others are made up."""

    def make(**fields: Any) -> dict[str, Any]:
        record = {"dataset": "MG", "setting": "DeepHE3", "seed": 42, "source": "bundled", "preset": "bundled"}
        record |= {"parameters": 7, "train_seconds": 1.5, "steps": 40, "config": {}}
        return record | {"metrics": {"all": {"mae_all": 2.5}}} | fields

    return make


@pytest.fixture
def conditions() -> Conditions:
    """Conditions of a smoke sweep on the bundled data."""
    return Conditions("bundled", "smoke", "cpu")
