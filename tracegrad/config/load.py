"""Reading and checking configurations: recipe, then preset or file, then single values; later wins."""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from tracegrad.config.checks import check_budget, check_config, shown
from tracegrad.config.schema import PRESETS, RECIPES, SECTIONS, SETTINGS, Config, DataConfig, ModelConfig
from tracegrad.config.yaml_files import parse_yaml, read_yaml
from tracegrad.errors import ConfigError, did_you_mean

PRESET_FOLDER = Path(__file__).parents[1] / "presets"
ENTRIES = ("datasets", "settings")  # what a file says for one database or one setting only
OWNERS = {item.name: section for section, cls in SECTIONS.items() for item in dataclasses.fields(cls)}


def load_config(
    file: str | Path | None = None,
    *,
    preset: str | None = None,
    dataset: str | None = None,
    setting: str | None = None,
    source: str | None = None,
    overrides: Iterable[str] = (),
) -> Config:
    """Put a configuration together.

    Later wins: defaults, recipe, preset, file (each with its sections for the database and the setting), the arguments,
    `overrides`.

    Args:
        file: YAML file of one's own; with ``preset: NAME`` it changes that preset.
        preset: a file that comes with the package: smoke, bundled, published.
        dataset: key of the database.
        setting: row of the paper's tables.
        source: where the data come from.
        overrides: texts ``section.key=value``; the section may be left out.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: unknown key (with the nearest known one), wrong type, value out of range, contradiction.
    """
    if file is not None and preset is not None:
        raise ConfigError(f"expected a configuration file or a preset, found both ({file}, {preset}); leave one out")
    where = str(file) if file is not None else "configuration"
    try:
        content = read_yaml(Path(file)) if file is not None else {"preset": preset} if preset else {}
        arguments: dict[str, Any] = {}
        named = (("data", "dataset", dataset), ("data", "source", source), ("model", "setting", setting))
        for section, key, value in named:
            if value is not None:
                arguments = merge(arguments, {section: {key: value}})
        config = _assemble(content, merge(arguments, _parse_overrides(overrides)), where)
    except RecursionError:
        raise ConfigError(f"{where}: expected two levels of keys, found endless nesting") from None
    check_budget(config, where)
    return config


def config_from_dict(content: Mapping[str, Any], where: str = "configuration") -> Config:
    """Checked configuration from a nested dictionary, the inverse of ``Config.to_dict``.

    Raises:
        ConfigError: as ``load_config``.
    """
    config = cast(Config, _build(Config, content, where, ""))
    check_config(config, where)
    return config


def read_preset(name: str, where: str = "configuration") -> dict[str, Any]:
    """Content of a preset file of the package.

    Args:
        name: smoke, bundled, published.
        where: what asks for it, for the message.

    Returns:
        Its sections.

    Raises:
        ConfigError: unknown name.
    """
    if name not in PRESETS:
        raise ConfigError(f"{where}: unknown preset {name!r}. {did_you_mean(name, PRESETS)}")
    return read_yaml(PRESET_FOLDER / f"{name}.yaml")


def merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Nested merge of two mappings; `extra` wins, neither is changed."""
    merged = dict(base)
    for key, value in extra.items():
        inner = merged.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged


def _assemble(content: Mapping[str, Any], given: Mapping[str, Any], where: str) -> Config:
    """Recipe, then the preset that the file names, then the file, then what was given by hand."""
    name = content.get("preset") or ""
    preset = read_preset(shown(name, str), where) if name else {}
    keys = merge(merge(preset, content), given)
    dataset = _text_at(keys, "data", "dataset", DataConfig().dataset)
    setting = _text_at(keys, "model", "setting", ModelConfig().setting)
    _check_sections(content, where, set())
    resolved = _apply_sections(preset, (dataset, setting))
    resolved = merge(merge(resolved, _apply_sections(content, (dataset, setting))), given)
    recipe = resolved.get("recipe", RECIPES[0])
    if recipe not in RECIPES:
        raise ConfigError(f"{where}: unknown recipe {shown(recipe)}. {did_you_mean(shown(recipe, str), RECIPES)}")
    base = read_yaml(PRESET_FOLDER / "recipes" / f"{recipe}.yaml")
    return config_from_dict(merge(_apply_sections(base, (dataset, setting)), resolved), where)


def _apply_sections(content: Mapping[str, Any], chosen: tuple[str, str]) -> dict[str, Any]:
    """Merge the parts of ``datasets`` and ``settings`` that belong to the chosen database and setting.

    Instead of values per database, ``datasets`` may list the hyperparameters that come from the registry of databases.
    """
    resolved = _without_sections(content)
    for section, name in zip(ENTRIES, chosen, strict=True):
        special = content.get(section, {})
        if section == "datasets" and isinstance(special, list):
            special = {name: _published_values(name, special)}
        if special.get(name):
            resolved = merge(resolved, _apply_sections(special[name], chosen))
    return resolved


def _without_sections(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in ENTRIES}


def _check_sections(content: Mapping[str, Any], where: str, seen: set[int]) -> None:
    """Refuse what is wrong in any entry of ``datasets`` and ``settings``, those of other choices included.

    Args:
        content: of a file, or of an entry, which may have entries of its own.
        where: file and entry, for the message.
        seen: ids of the entries that have been looked at: aliases give one entry many names.
    """
    for section in ENTRIES:
        special = content.get(section, {})
        if section == "datasets" and isinstance(special, list):
            _check_names(special, OWNERS, f"{where}: datasets")
            continue
        if not isinstance(special, Mapping):
            raise ConfigError(f"{where}: {section}: expected a mapping, found {type(special).__name__}")
        if section == "settings":
            _check_names(special, SETTINGS, f"{where}: settings")
        for key, value in special.items():
            name = f"{where}: {section}.{shown(key, str)}"
            if value is None or id(value) in seen:
                continue
            if not isinstance(value, Mapping):
                raise ConfigError(
                    f"{name}: expected a mapping {{section: {{key: value}}}}, found "
                    f"{type(value).__name__} {shown(value)}"
                )
            seen.add(id(value))
            _build(Config, _without_sections(value), name, "")
            _check_sections(value, name, seen)


def _check_names(names: Iterable[Any], known: Collection[str], where: str) -> None:
    unknown = [shown(name, str) for name in names if not isinstance(name, str) or name not in known]
    if unknown:
        raise ConfigError(f"{where}: unknown {unknown[0]!r}. {did_you_mean(unknown[0], known)}")


def _published_values(dataset: str, keys: list[str]) -> dict[str, Any]:
    """The named hyperparameters of a database (``tracegrad/data/presets/KEY.yaml``), as far as it has them."""
    from tracegrad.data import DATABASES

    published = DATABASES[dataset].preset() if dataset in DATABASES else {}
    values: dict[str, Any] = {}
    for key in keys:
        if key in published:
            values = merge(values, {OWNERS[key]: {key: published[key]}})
    return values


def _text_at(content: Mapping[str, Any], section: str, key: str, default: str) -> str:
    inner = content.get(section)
    value = inner.get(key, default) if isinstance(inner, Mapping) else default
    return value if isinstance(value, str) else default


def _parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Nested mapping from texts ``section.key=value``."""
    known = {"recipe", *(f"{section}.{key}" for key, section in OWNERS.items())}
    parsed: dict[str, Any] = {}
    for text in overrides:
        name, equals, value_text = (part.strip() for part in text.partition("="))
        if not equals:
            raise ConfigError(f"--set: expected key=value, found {text!r}")
        full = f"{OWNERS[name]}.{name}" if name in OWNERS else name
        if full not in known:
            near = difflib.get_close_matches(name, sorted(known | set(OWNERS)), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"--set: unknown key {name!r}.{hint} All keys: tracegrad info --options")
        try:
            value = parse_yaml(value_text)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise ConfigError(f"--set {name}: cannot read the value {reprlib.repr(value_text)}") from None
        section, dot, key = full.partition(".")
        parsed = merge(parsed, {section: {key: value}} if dot else {section: value})
    return parsed


def _build(cls: type[Any], content: Any, where: str, prefix: str) -> Any:
    """Instance of a configuration dataclass from a mapping, every key and type checked."""
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where}: {prefix}: expected a mapping, found {type(content).__name__}")
    items = {item.name: item for item in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key not in items:
            near = did_you_mean(shown(key, str), items)
            raise ConfigError(f"{where}: unknown key {prefix + shown(key, str)!r}. {near}")
        name = f"{prefix}{key}"
        if dataclasses.is_dataclass(hints[key]):
            values[key] = _build(cast(type[Any], hints[key]), value, where, f"{name}.")
        else:
            values[key] = _check_value(_coerce(value, hints[key], name, where), items[key].metadata, name, where)
    return cls(**values)


def _coerce(value: Any, kind: Any, name: str, where: str) -> Any:
    """The value as the annotated type; YAML reads 1e-3 as text and 2 as an integer, which is repaired here."""
    if isinstance(kind, types.GenericAlias):
        if isinstance(value, list | tuple):
            return tuple(_coerce(entry, typing.get_args(kind)[0], name, where) for entry in value)
    elif kind is float and isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    elif type(value) is kind:
        return value
    label = "list" if isinstance(kind, types.GenericAlias) else "finite number" if kind is float else kind.__name__
    raise ConfigError(f"{where}: {name}: expected {label}, found {type(value).__name__} {shown(value)}")


def _check_value(value: Any, metadata: Mapping[str, Any], name: str, where: str) -> Any:
    choices, low, high = metadata.get("choices"), metadata.get("low"), metadata.get("high")
    if choices and value not in choices:
        near = did_you_mean(shown(value, str), choices)
        raise ConfigError(f"{where}: {name}: unknown value {shown(value)}. {near}")
    if (low is not None and value < low) or (high is not None and value > high):
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ConfigError(f"{where}: {name}: expected a number {limits}, found {shown(value)}")
    return value
