"""Configurations: the order of precedence, and what is refused."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tracegrad.config import (
    PRESETS,
    RECIPES,
    SETTINGS,
    Config,
    changed_keys,
    config_from_dict,
    load,
    load_config,
    merge,
    option_rows,
    read_preset,
    read_yaml,
)
from tracegrad.config.load import PRESET_FOLDER
from tracegrad.config.yaml_files import MAX_FILE_BYTES
from tracegrad.errors import ConfigError

KEYS = ("MG", "MM", "BG", "BB", "BT", "BS")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the path of a configuration file of one's own."""
    return tmp_path / "my.yaml"


def test_presets_are_valid_for_every_database_and_setting() -> None:
    for preset in PRESETS:
        for key in KEYS:
            for setting in SETTINGS:
                config = load_config(preset=preset, dataset=key, setting=setting)
                assert (config.preset, config.data.dataset, config.model.setting) == (preset, key, setting)


def test_published_preset_has_the_numbers_of_the_paper() -> None:
    # the published values, written here a second time
    table = {
        "MG": (0.003, 700, 300, 2400),
        "MM": (0.005, 1200, 200, 2202),
        "BG": (0.003, 1000, 400, 1895),
        "BB": (0.005, 1200, 200, 1825),
        "BS": (0.005, 800, 100, 1502),
    }
    for key, numbers in table.items():
        training = load_config(preset="published", dataset=key).training
        assert (training.learning_rate, training.start, training.interval, training.epochs) == numbers
        assert (training.schedule, training.batch_size, training.optimizer) == ("slippery_slope", 1, "adam")
    special = load_config(preset="published", dataset="BT")
    assert (special.training.schedule, special.training.patience, special.training.cooldown) == ("plateau", 180, 40)
    assert (special.training.learning_rate, special.training.batch_size, special.model.r_max) == (0.004, 2, 9.0)
    assert special.training.epochs == 2520
    assert "5o" not in special.model.hidden_irreps


def test_every_line_of_a_preset_that_sets_a_number_is_known_and_the_first_line_says_why() -> None:
    for path in [*PRESET_FOLDER.glob("*.yaml"), *PRESET_FOLDER.glob("recipes/*.yaml")]:
        assert path.read_text(encoding="utf-8").startswith("# ")
    assert {path.stem for path in PRESET_FOLDER.glob("*.yaml")} == set(PRESETS)
    assert {path.stem for path in PRESET_FOLDER.glob("recipes/*.yaml")} == set(RECIPES)


def test_settings_of_a_table_differ_in_nothing_but_the_setting_and_the_swept_rate() -> None:
    for preset in PRESETS:
        for key in KEYS:
            dicts = [load_config(preset=preset, dataset=key, setting=s).to_dict() for s in SETTINGS[:4]]
            for content in dicts:
                content["model"]["setting"] = ""
                if content["recipe"] == "fast":  # the paper has one rate for all settings
                    assert content["training"].pop("learning_rate") in (0.05, 0.1)
            assert all(content == dicts[0] for content in dicts)


def test_round_trip_through_yaml(file: Path) -> None:
    config = load_config(preset="bundled", dataset="BT", overrides=["learning_rate=1e-4", "loggers=[]"])
    file.write_text(config.to_yaml(), encoding="utf-8")
    assert config_from_dict(read_yaml(file)) == config
    assert load_config(file) == config
    changed = load_config(file, overrides=["learning_rate=2e-4"])
    assert changed != config


def test_precedence_is_recipe_then_file_then_dataset_then_setting_then_overrides(file: Path) -> None:
    file.write_text(
        "recipe: fast\ntraining: {epochs: 7, learning_rate: 1e-2, clip: 1}\n"
        "datasets: {BB: {training: {learning_rate: 2e-2, clip: 2}, settings: {DeepHE3: {training: {clip: 5}}}}}\n"
        "settings: {DeepHE3: {training: {clip: 3}}}\n",
        encoding="utf-8",
    )
    plain = load_config(file, dataset="MG", setting="DeepHE3+Grad").training
    assert (plain.learning_rate, plain.clip, plain.schedule) == (0.01, 1.0, "cosine")
    assert load_config(file, dataset="BB", setting="DeepHE3+Grad").training.clip == 2.0
    assert load_config(file, dataset="MG", setting="DeepHE3").training.clip == 3.0
    assert load_config(file, dataset="BB", setting="DeepHE3", overrides=["clip=4"]).training.clip == 4.0
    assert load_config(file, overrides=["recipe=paper"]).training.schedule == "slippery_slope"


def shadowed(preset: str, recipe: str) -> list[str]:
    """Keys of the network that a recipe names and a preset changes."""
    wanted = read_yaml(PRESET_FOLDER / "recipes" / f"{recipe}.yaml")["model"]
    found = load_config(preset=preset, overrides=[f"recipe={recipe}"]).model
    return sorted(key for key, value in wanted.items() if getattr(found, key) != value)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_trained_as_it_is_written(recipe: str) -> None:
    """No preset but the smallest narrows what belongs to the method: a published operator has its published width."""
    assert shadowed("bundled", recipe) == shadowed("published", recipe) == []
    assert shadowed("smoke", recipe) == ["operator_width", "trace_width"]  # control: the preset that does


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learnin_rate=1", r"unknown key 'learnin_rate'. Did you mean 'learning_rate'"),
        ("hidden_irreps=foo", r"hidden_irreps: expected irreps of degrees 0 to 12 such as .* found 'foo'"),
        ("hidden_irreps=4x0e+", r"hidden_irreps: expected irreps"),
        ("hidden_irreps=4x0e+2x13o", r"hidden_irreps: expected irreps of degrees 0 to 12"),
        ("hidden_irreps=4x1o+2x2e", r"hidden_irreps: expected scalars 0e"),
        ("hidden_irreps=0x0e+4x1o", r"hidden_irreps: expected scalars 0e"),
        ("embed_dim=1", r"embed_dim: expected a number at least 2"),
        ("model.hiden_irreps=1x0e", r"Did you mean 'model.hidden_irreps'"),
        ("epochs", "expected key=value"),
        ("epochs=1.5", "training.epochs: expected int, found float"),
        ("epochs=-1", "training.epochs: expected a number at least 0"),
        ("epochs=true", "training.epochs: expected int, found bool"),
        ("learning_rate=fast", "training.learning_rate: expected finite number"),
        ("learning_rate=.nan", "training.learning_rate: expected finite number"),
        ("schedule=cosin", "training.schedule: unknown value 'cosin'. Did you mean 'cosine'"),
        ("setting=DeepHE3+tracegrad", r"Did you mean 'DeepHE3\+TraceGrad'"),
        ("recipe=paperr", "Did you mean 'paper'"),
        ("hermitian=1", "model.hermitian: expected bool, found int"),
        ("loggers=tensorboard", "training.loggers: expected list, found str"),
        ("loggers=[tensorbord]", "Did you mean 'tensorboard'"),
        ("weight_decay=0.1 optimizer=adam", "needs training.optimizer 'adamw' or 'soap'"),
        ("max_steps=0", "no budget"),
        ("setting=HarmoSE hermitian=false", "needs model.hermitian true"),
        (
            "setting=HarmoSE harmose_width=10",
            "harmose_width: expected a multiple of model.harmose_heads, found 10 for 4",
        ),
        ("epochs=[", "cannot read the value"),
        ("trace_width=1", "model.trace_width: expected a number at least 2, found 1"),
        ("schedule=plateau smoothing=0", "schedule 'plateau' needs training.smoothing above 0, found 0"),
        ("revert_ratio=0.5", "training.revert_ratio: expected 0 or a number at least 1, found 0.5"),
        ("operator=packed operator_rank=2", "model.operator_rank 2 needs model.operator 'low_rank', found 'packed'"),
        ("envelope=0 envelope_end=5", "model.envelope_end needs model.envelope at least 1, found 0"),
        ("dataset=BS envelope_end=5", "model.envelope_end needs model.envelope at least 1, found 0"),
        ("envelope_end=8", r"model.envelope_end: expected at most model.r_max, 7.5 Å, found 8; lower it"),
    ],
)
def test_wrong_overrides_are_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(preset="bundled", overrides=override.split())


@pytest.mark.parametrize(
    "override",
    [
        "trace_width=2",
        "schedule=plateau smoothing=0.01",
        "schedule=cosine smoothing=0",  # which does not look at it
        "revert_ratio=0",
        "revert_ratio=1",
        "operator=low_rank operator_rank=2",
        "operator=packed operator_rank=1",
        "envelope=1 envelope_end=7.5",
        "setting=DeepHE3 trace_of_residual=true",  # settings of one table differ in nothing else
    ],
)
def test_values_beside_those_that_are_refused_are_taken(override: str) -> None:
    assert load_config(preset="bundled", overrides=override.split()).preset == "bundled"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {epochs: 1, learnig_rate: 1}", "unknown key 'training.learnig_rate'. Did you mean 'learning_rate'"),
        ("trainin: {epochs: 1}", "unknown key 'trainin'. Did you mean 'training'"),
        ("training: 3", "training.: expected a mapping, found int"),
        ("- 1\n- 2", "expected a mapping of keys to values, found list"),
        ("a: [1", "expected YAML"),
        ("a: !!python/object/apply:os.system [echo]", "expected YAML"),
        ("settings: {DeepE3: {}}", "settings: unknown 'DeepE3'. Did you mean 'DeepHE3'"),
        ("datasets: 1", "datasets: expected a mapping"),
        ("datasets: {MG: [learning_rate]}", r"datasets.MG: expected a mapping .* found list \['learning_rate'\]"),
        ("datasets: {mine: 3}", "datasets.mine: expected a mapping"),
        ("settings: {DeepHE3: 0.1}", "settings.DeepHE3: expected a mapping .* found float 0.1"),
        ("datasets: &a {MG: {datasets: *a}}", "endless nesting"),
        ("training: {epochs: 1}\nmodel: {trace_of_residual: true}\nrecipe: paper", "needs model.reference true"),
        ("training: {epochs: 1}\nmodel: {reference_only: true}\nrecipe: paper", "needs model.reference true"),
        ("3: 4", "unknown key '3'"),
        ("datasets: [learnin_rate]", "datasets: unknown 'learnin_rate'. Did you mean 'learning_rate'"),
        ("datasets: [[epochs]]", "datasets: unknown"),
    ],
)
def test_wrong_files_are_refused_by_name(file: Path, text: str, message: str) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as error:
        load_config(file)
    assert "my.yaml" in str(error.value)
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("training: {learning_rate: 0.02}\nmodel: {r_max: 6}\ntraining: {epochs: 7}\n", "training", (3, 1)),
        ("training:\n  epochs: 7\n  seed: 1\n  'epochs': 8\n", "epochs", (4, 2)),
        ("training: {epochs: 7, epochs: 8}", "epochs", (1, 1)),
        ("settings:\n  HarmoSE: {}\n  HarmoSE: {training: {epochs: 2}}\n", "HarmoSE", (3, 2)),
    ],
    ids=["section", "key", "one line", "entry"],
)
def test_a_key_that_stands_twice_is_refused_with_both_lines(
    file: Path, text: str, key: str, lines: tuple[int, int]
) -> None:
    file.write_text(text, encoding="utf-8")
    message = f"{file}: line {lines[0]}: expected every key once, found '{key}' again, which is in line {lines[1]} too"
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(file)
    assert yaml.safe_load(text)  # control: the library itself takes it, and drops the first of the two
    with pytest.raises(ConfigError, match=r"cannot read the value '{a: 1, a: 2}'"):
        load_config(preset="smoke", overrides=["loggers={a: 1, a: 2}"])


def test_merge_keys_and_aliases_are_no_repetition(file: Path) -> None:
    file.write_text(
        "settings:\n"
        "  DeepHE3: &wide {training: &short {epochs: 7, clip: 1}}\n"
        "  HarmoSE: {<<: *wide, training: {<<: *short, clip: 2}}\n"
        "  DeepHE3+Grad: {model: {}, training: {<<: *short, <<: {seed: 9}}}\n"
        "  DeepHE3+Trace: *wide\n",
        encoding="utf-8",
    )
    found = [load_config(file, setting=setting).training for setting in ("DeepHE3", "HarmoSE", "DeepHE3+Grad")]
    assert [(training.epochs, training.clip, training.seed) for training in found] == [
        (7, 1.0, 42), (7, 2.0, 42), (7, 1.0, 9),
    ]  # fmt: skip
    assert load_config(file, setting="DeepHE3+Trace").training == found[0]


@pytest.mark.parametrize(
    ("wrong", "right", "message"),
    [
        (
            "settings: {HarmoSE: {training: {learnin_rate: 1}}}",
            "settings: {HarmoSE: {training: {learning_rate: 1}}}",
            "settings.HarmoSE: unknown key 'training.learnin_rate'. Did you mean 'learning_rate'",
        ),
        (
            "datasets: {BT: {model: {r_max: far}}}",
            "datasets: {BT: {model: {r_max: 9}}}",
            "datasets.BT: model.r_max: expected finite number, found str 'far'",
        ),
        (
            "datasets: {BT: {modle: {r_max: 9}}}",
            "datasets: {BT: {model: {r_max: 9}}}",
            "datasets.BT: unknown key 'modle'. Did you mean 'model'",
        ),
        (
            "datasets: {BT: {settings: {HarmoSE: {training: {schedule: cosin}}}}}",
            "datasets: {BT: {settings: {HarmoSE: {training: {schedule: cosine}}}}}",
            "datasets.BT: settings.HarmoSE: training.schedule: unknown value 'cosin'. Did you mean 'cosine'",
        ),
        (
            "datasets: {BT: {settings: {HarmSE: {}}}}",
            "datasets: {BT: {settings: {HarmoSE: {}}}}",
            "datasets.BT: settings: unknown 'HarmSE'. Did you mean 'HarmoSE'",
        ),
        (
            "settings: {HarmoSE: {datasets: [learnin_rate]}}",
            "settings: {HarmoSE: {datasets: [learning_rate]}}",
            "settings.HarmoSE: datasets: unknown 'learnin_rate'. Did you mean 'learning_rate'",
        ),
    ],
    ids=["key", "type", "section", "entry of an entry", "setting", "list"],
)
def test_what_belongs_to_other_choices_is_checked_too(file: Path, wrong: str, right: str, message: str) -> None:
    chosen = {"dataset": "MG", "setting": "DeepHE3"}
    file.write_text(f"training: {{epochs: 1}}\n{wrong}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(f"{file}: {message}")):
        load_config(file, **chosen)
    file.write_text(f"training: {{epochs: 1}}\n{right}\n", encoding="utf-8")
    found = load_config(file, **chosen)
    file.write_text("training: {epochs: 1}\n", encoding="utf-8")
    assert load_config(file, **chosen) == found  # they change nothing where they are not chosen


def test_every_entry_that_comes_with_the_package_is_right() -> None:
    for path in [*PRESET_FOLDER.glob("*.yaml"), *PRESET_FOLDER.glob("recipes/*.yaml")]:
        load_config(path, overrides=["epochs=1"])


def test_an_entry_with_many_names_is_looked_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, entries = load._build, []

    def note(cls: type, content: object, where: str, prefix: str) -> object:
        entries.extend([where] if ": datasets." in where and not prefix else [])
        assert len(entries) <= 120, "9^9 paths lead to the first entry"
        return original(cls, content, where, prefix)

    monkeypatch.setattr(load, "_build", note)
    lines = ["datasets:", "  l0: &l0 {training: {epochs: 1}}"]
    for k in range(1, 10):
        names = ", ".join(f"{name}: *l{k - 1}" for name in "abcdefghi")
        lines.append(f"  l{k}: &l{k} {{datasets: {{{names}}}}}")
    file.write_text("\n".join([*lines, "training: {epochs: 1}"]), encoding="utf-8")
    load_config(file)
    assert len(entries) == 10
    file.write_text(file.read_text().replace("{epochs: 1}", "{epoch: 1}", 1), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"datasets.l0: unknown key 'training.epoch'. Did you mean 'epochs'"):
        load_config(file)


def test_a_file_that_names_a_preset_changes_that_preset(file: Path) -> None:
    file.write_text("preset: smoke\nmodel: {r_max: 6.5}\ntraining: {epochs: 9}\n", encoding="utf-8")
    found, preset = load_config(file, dataset="BT"), load_config(preset="smoke", dataset="BT")
    assert preset.model.r_max == 9.0  # for BT, in a section of the preset
    assert changed_keys(preset, found) == ["model.r_max: 9.0 -> 6.5", "training.epochs: 4 -> 9"]
    file.write_text("model: {r_max: 6.5}\ntraining: {epochs: 9}\n", encoding="utf-8")
    plain = load_config(file, dataset="BT")  # control: without the name it is the recipe alone
    assert (plain.recipe, plain.model.num_blocks) != (found.recipe, found.model.num_blocks)
    file.write_text("preset: smok\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"{re.escape(str(file))}: unknown preset 'smok'\. Did you mean 'smoke'"):
        load_config(file)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_written_configuration_of_a_run_is_read_as_it_is(file: Path, preset: str) -> None:
    for key, setting in itertools.product(("MG", "BT", "BS"), ("DeepHE3", "DeepHE3+Grad", "HarmoSE")):
        config = load_config(preset=preset, dataset=key, setting=setting, overrides=["epochs=3", "r_max=5.5"])
        file.write_text(yaml.safe_dump(config.to_dict()), encoding="utf-8")
        assert load_config(file) == config


def test_unreadable_files_are_refused(file: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(path)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(file)
    file.write_text("#" * (MAX_FILE_BYTES + 1), encoding="utf-8")
    with pytest.raises(ConfigError, match="at most"):
        load_config(file)
    with pytest.raises(ConfigError, match="both"):
        load_config(file, preset="smoke")
    with pytest.raises(ConfigError, match="Did you mean 'smoke'"):
        read_preset("smok")


KNOWN = st.sampled_from(["data", "model", "training", "epochs", "settings", "datasets", "MG", "DeepHE3"])
LEAVES = st.none() | st.integers() | st.floats() | st.text(max_size=5)


@given(st.dictionaries(KNOWN, st.recursive(LEAVES, lambda inner: st.dictionaries(KNOWN | st.text(max_size=4), inner))))
def test_any_mapping_is_a_configuration_or_a_short_named_error(content: dict[str, object]) -> None:
    try:
        message = config_from_dict(content).to_yaml()
    except ConfigError as error:
        message = str(error)
    assert 0 < len(message) < 5000


def test_merge_leaves_its_arguments_alone() -> None:
    base, extra = {"a": {"b": 1}}, {"a": {"c": 2}}
    assert merge(base, extra) == {"a": {"b": 1, "c": 2}}
    assert (base, extra) == ({"a": {"b": 1}}, {"a": {"c": 2}})


def test_every_option_has_a_meaning() -> None:
    rows = option_rows()
    assert len(rows) > 50
    assert all(meaning.endswith((".", ":")) and len(meaning) > 10 for _, _, _, meaning in rows)
    defaults = Config().to_dict()
    for key, _, default, _ in rows:
        section, _, name = key.rpartition(".")
        value = defaults[section][name] if section else defaults[name]
        assert value == (list(default) if isinstance(default, tuple) else default)


def test_settings_are_those_that_can_be_built() -> None:
    from tracegrad.model.build import SETTINGS as buildable

    assert set(buildable) == set(SETTINGS)


@pytest.mark.parametrize("irreps", ["0e", " 4x0e + 2x1o", "2x12e+1x0o+8x0e", "0x1o+1x0e"])
def test_irreps_of_any_order_and_degree_are_accepted(irreps: str) -> None:
    assert config_from_dict({"model": {"hidden_irreps": irreps}}).model.hidden_irreps == irreps
