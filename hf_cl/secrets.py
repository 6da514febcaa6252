"""Tokens and passwords have no place among the settings: config.yaml, results.json, card and report show every setting."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import get_token

_NAMED_SECRET = re.compile(r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|KEY)$")
_SHORTEST = 12
"""Characters. Shorter values of the environment could stand in any path by chance."""
_LOOKS_SECRET = re.compile(r"\bhf_[A-Za-z0-9]{30,}|(?<=://)[^/\s@]+@")  # a token of the Hub; user and password in an address


def check_no_secrets(settings: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the setting and not what it holds, for a token of the Hub, an address with a password, or the value of an
    environment variable whose name ends with TOKEN, KEY, SECRET or PASSWORD."""
    known = _known_secrets()
    for name, value in settings.items():
        if any(_holds_secret(text, known) for text in _texts(value)):
            raise ValueError(
                f"{name} holds a token or a password, and a run folder shows every setting. "
                "Give tokens by environment variables (HF_TOKEN, WANDB_API_KEY) and names by themselves, without an address."
            )


def without_secrets(text: str) -> str:
    """`text` with `***` in the place of every token and password, for messages."""
    for secret in _known_secrets():
        text = text.replace(secret, "***")
    return _LOOKS_SECRET.sub(lambda found: "***@" if found.group().endswith("@") else "***", text)


def _holds_secret(text: str, known: list[str]) -> bool:
    return bool(_LOOKS_SECRET.search(text)) or any(secret in text for secret in known)


def _known_secrets() -> list[str]:
    values = [value for name, value in os.environ.items() if _NAMED_SECRET.search(name.upper())]
    return [value for value in (*values, get_token() or "") if len(value) >= _SHORTEST]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _texts(str(key))
            yield from _texts(entry)
    elif isinstance(value, list | tuple | set):
        for entry in value:
            yield from _texts(entry)
