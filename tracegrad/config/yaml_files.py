"""YAML as it is read here: nothing in it is executed, and no key of a mapping stands twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tracegrad.errors import ConfigError

MAX_FILE_BYTES = 1_000_000  # a configuration is a page of text; a larger file was given by mistake
MERGE_TAG = "tag:yaml.org,2002:merge"  # of the key <<, which may stand for several mappings


class RepeatedKeyError(yaml.YAMLError):
    """A key stands twice in one mapping."""


class UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a repeated key, of which PyYAML keeps the last alone and says nothing."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it is written: what merge keys bring in is not yet among its keys, which may change it."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE_TAG:
                continue
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                raise RepeatedKeyError(
                    f"line {line}: expected every key once, found {key.value[:80]!r} again, which is in line "
                    f"{lines[name]} too; put what belongs to it in one place"
                )
            lines[name] = line
        return node


def parse_yaml(text: str) -> Any:
    """Value that a YAML text stands for.

    Args:
        text: one document.

    Returns:
        Mappings, lists, texts, numbers; None for an empty text.

    Raises:
        RepeatedKeyError: naming the key and its two lines.
        yaml.YAMLError: not YAML, or with tags that would run code.
    """
    return yaml.load(text, Loader=UniqueKeyLoader)  # noqa: S506 - a SafeLoader


def read_yaml(path: Path) -> dict[str, Any]:
    """Mapping held by a YAML file; nothing in it is executed.

    Raises:
        ConfigError: missing, too large, not YAML, with a repeated key, or not a mapping.
    """
    try:
        size = path.stat().st_size
        text = path.read_text(encoding="utf-8") if size <= MAX_FILE_BYTES else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}; check the path") from None
    if size > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: expected a configuration of at most {MAX_FILE_BYTES} bytes, found {size}")
    try:
        content = parse_yaml(text)
    except RepeatedKeyError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        first = " ".join(str(error).split())[:300]
        raise ConfigError(f"{path}: expected YAML, found: {first}; see the presets for the form") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, found {type(content).__name__}")
    return content
