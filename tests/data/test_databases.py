"""The registry and the presets against the numbers of the paper and of the release."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracegrad.config import load_config
from tracegrad.data import DATABASES
from tracegrad.data.databases import PRESET_FOLDER, database
from tracegrad.errors import ConfigError, DataError

# key: learning rate, (start, interval) or (patience, cooldown), epochs, spin-orbit coupling, structures
PUBLISHED = {
    "MG": (0.003, (700, 300), 2400, False, (270, 90, 90, 0)),
    "MM": (0.005, (1200, 200), 2202, False, (300, 100, 100, 0)),
    "BG": (0.003, (1000, 400), 1895, False, (180, 60, 60, 9)),
    "BB": (0.005, (1200, 200), 1825, True, (231, 113, 113, 4)),
    "BT": (0.004, (180, 40), 2520, True, (204, 38, 12, 2)),
    "BS": (0.005, (800, 100), 1502, True, (231, 113, 113, 2)),
}


def test_exactly_the_six_databases_are_registered() -> None:
    assert set(DATABASES) == set(PUBLISHED)
    assert all(entry.key == key for key, entry in DATABASES.items())


@pytest.mark.parametrize("key", PUBLISHED)
def test_an_entry_agrees_with_the_published_facts(key: str) -> None:
    rate, steps, epochs, spinful, counts = PUBLISHED[key]
    entry, preset = DATABASES[key], DATABASES[key].preset()
    assert (entry.spinful, entry.counts_published) == (spinful, counts)
    names = ("patience", "cooldown") if key == "BT" else ("start", "interval")
    assert (preset["learning_rate"], tuple(preset[n] for n in names), preset["epochs"]) == (rate, steps, epochs)
    assert (preset["r_max"], preset["batch_size"]) == ((9.0, 2) if key == "BT" else (7.2, 1))
    assert set(entry.orbitals_bundled) == set(entry.orbitals_published) == set(entry.elements)


@pytest.mark.parametrize("key", PUBLISHED)
def test_the_preset_published_trains_with_the_numbers_of_the_registry(key: str) -> None:
    config = load_config(preset="published", dataset=key)
    for name, value in DATABASES[key].preset().items():
        (owner,) = [part for part in (config.model, config.training) if hasattr(part, name)]
        assert getattr(owner, name) == value


@pytest.mark.parametrize("key", PUBLISHED)
def test_a_configuration_may_take_its_numbers_from_the_registry(key: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("recipe: fast\ntraining: {epochs: 1}\ndatasets: [learning_rate, epochs, r_max, hidden_irreps]\n")
    config, preset = load_config(file, dataset=key), DATABASES[key].preset()
    assert (config.training.learning_rate, config.training.epochs) == (preset["learning_rate"], preset["epochs"])
    assert (config.model.r_max, config.model.hidden_irreps) == (preset["r_max"], preset["hidden_irreps"])
    assert load_config(file, dataset="mine").training.epochs == 1
    file.write_text("training: {epochs: 1}\ndatasets: [learning_rat]\n")
    with pytest.raises(ConfigError, match="Did you mean 'learning_rate'"):
        load_config(file, dataset=key)


@pytest.mark.parametrize("key", PUBLISHED)
def test_every_line_of_a_preset_has_its_reason(key: str) -> None:
    lines = (PRESET_FOLDER / f"{key}.yaml").read_text(encoding="utf-8").splitlines()
    assert all(line.startswith("#") or ("# " in line and len(line.split("# ", 1)[1]) > 5) for line in lines)


def test_an_unknown_key_is_answered_with_the_nearest() -> None:
    with pytest.raises(DataError, match="unknown database 'bt'\\. Did you mean 'BT'"):
        database("bt")
