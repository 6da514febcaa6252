"""Settings that are read from source are those that Python imports."""

from __future__ import annotations

import sys
from dataclasses import MISSING, fields
from typing import get_type_hints

import pytest

from hf_cl.images import AUGMENTATIONS
from hf_cl.methods import METHODS
from hf_cl.run import early, setting_docs
from hf_cl.run.source import PACKAGE, NotReadableError, keys_of, module_path, read
from hf_cl.scenarios import SCENARIOS


def defaults(settings):
    return {f.name: f.default_factory() if f.default_factory is not MISSING else f.default for f in fields(settings)}


def test_the_methods_are_those_that_are_registered():
    assert early.method_names() == [*METHODS]


@pytest.mark.parametrize("method", METHODS)
def test_settings_read_from_source_are_the_imported_ones(method):
    found, imported = early.settings_class(method), METHODS[method]
    assert found is not None and found is not imported and found.__name__ == imported.__name__
    assert [f.name for f in fields(found)] == [f.name for f in fields(imported)]
    assert defaults(found) == defaults(imported)
    assert get_type_hints(found) == get_type_hints(imported)
    assert {f.name: text for f, text in setting_docs(found).items()} == {f.name: text for f, text in setting_docs(imported).items()}


def test_their_checks_are_made_too():
    found = early.settings_class("sara")
    assert found is not None
    with pytest.raises(ValueError, match="Give threshold or density, not both") as refused:
        found(threshold=1e-3, density=0.1, batch_size=0)  # pyright: ignore[reportCallIssue]
    assert "batch_size must be at least 1" in str(refused.value)


def test_names_of_registries():
    assert early.names_for("protocol") == [*SCENARIOS] and early.names_for("augmentation") == [*AUGMENTATIONS]


FILE = """
from __future__ import annotations
from dataclasses import dataclass, field
import torch
from hf_cl.adapters.glad.config import TEXT_HEAD
from hf_cl.methods import METHODS, GladSettings
RATES = [rate / 10 for rate in range(3)]
def limit(): return torch.tensor(1.0)
def fine(value): return value > RATES[0]
@dataclass
class Plain(GladSettings):
    rates: list[float] = field(default_factory=lambda: list(RATES))
    head: dict = field(default_factory=lambda: dict(TEXT_HEAD))
    def method(self): return torch
    def checked(self): return fine(self.rates[1])
    def unreadable(self): return limit()
@dataclass
class Heavy(GladSettings):
    limit: float = float(torch.tensor(1.0))
METHODS["plain"] = Plain
METHODS["heavy"] = Heavy
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return str(path)


def test_a_file_of_ones_own_is_read_without_what_it_imports(mine):
    assert early.method_names([mine])[-2:] == ["plain", "heavy"]
    found = early.settings_class("plain", [mine])
    assert found is not None
    settings = found()
    assert settings.rates == [0.0, 0.1, 0.2] and settings.head["type"] == "text" and settings.r == 2 and settings.checked()
    with pytest.raises(NameError):
        settings.unreadable()


def test_what_takes_more_is_left_to_the_import(mine, tmp_path):
    assert early.settings_class("heavy", [mine]) is None
    assert early.settings_class("unknown", [mine]) is None
    for wrong in (str(tmp_path / "none.py"), "no_such_module_of_mine"):
        with pytest.raises(NotReadableError):
            early.method_names([wrong])
    (tmp_path / "bad.py").write_text("def")
    with pytest.raises(NotReadableError):
        keys_of(tmp_path / "bad.py", "METHODS")
    with pytest.raises(NotReadableError, match="has no Nothing"):
        read(PACKAGE / "hints.py", "Nothing")


def test_modules_are_found_without_being_imported(monkeypatch):
    assert module_path("hf_cl.methods.ovor") == PACKAGE / "methods" / "ovor.py"
    assert module_path("hf_cl.methods") == PACKAGE / "methods" / "__init__.py"
    assert module_path("no_such.module") is None and module_path("math") is None and module_path("math.path") is None
    monkeypatch.setattr(sys, "path", [])  # as where an editable install finds the package by a finder of its own
    assert module_path("hf_cl.methods.ovor") == PACKAGE / "methods" / "ovor.py"
