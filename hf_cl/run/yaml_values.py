"""YAML from files and flags: safe, keys that stand once, numbers as people write them."""

from __future__ import annotations

import reprlib
from collections import Counter
from typing import Any

import yaml

NO_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError)
"""What PyYAML raises for text that is none: its constructors of dates, booleans and numbers do not wrap what goes wrong in them."""


class UniqueKeys(yaml.SafeLoader):
    """Safe YAML in which a key stands once: of two, PyYAML would take the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = [key for key, count in keys.items() if count > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"the key {brief(twice[0])} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def yaml_value(text: str, flag: str) -> Any:
    """The value of a flag. Raises ValueError, naming the flag, for what is no YAML."""
    try:
        return number(UniqueKeys(text).get_single_data())
    except NO_YAML as error:
        raise ValueError(f"{brief(flag)}: {brief(text)} is no YAML value.") from error


def number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as a string; people mean the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def brief(value: Any) -> str:
    """A value for a message: not deep and not long."""
    shorter = reprlib.Repr()  # YAML's anchors can make a short file a huge value
    shorter.maxlevel, shorter.maxstring, shorter.maxother = 3, 200, 200
    text = shorter.repr(value)
    return text if len(text) <= 300 else f"{text[:300]}..."
