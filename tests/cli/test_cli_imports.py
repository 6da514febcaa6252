"""A part of one's own from the command line to a loaded adapter."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from PIL import Image

from hf_cl import own_parts
from hf_cl.heads import HEADS
from hf_cl.losses import LOSSES
from hf_cl.methods import METHODS
from hf_cl.run import launch, run

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "my_parts.py"
HEAD = """
from hf_cl.heads import HEADS, PrototypeHead

class Mine(PrototypeHead):
    \"\"\"Class means, mine.\"\"\"

HEADS["mine"] = Mine
"""


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """What a test registers goes with it."""
    for registry in (HEADS, LOSSES, METHODS):
        monkeypatch.setitem(registry, "mine", None)
        del registry["mine"]
    monkeypatch.setattr(own_parts, "_given", [])
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for registry, name in ((HEADS, "mine"), (LOSSES, "features_hold"), (METHODS, "hold")):
        registry.pop(name, None)
    for name in ("names_head", "my_parts"):
        sys.modules.pop(name, None)


@pytest.fixture
def photos(tmp_path):
    """Two classes of five small pictures."""
    for number, name in enumerate(("dark", "light")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for image in range(5):
            Image.new("L", (16, 16), 200 * number + 10 * image).save(tmp_path / "photos" / name / f"{image}.png")
    return tmp_path / "photos"


def words(photos, tmp_path, **settings):
    values = {"dataset": photos, "num_base_classes": 1, "classes_per_session": 1, "output_dir": tmp_path / "run", **settings}
    return ["--config", "none", "--cpu", *(word for name, value in values.items() for word in (f"--{name}", str(value)))]


def test_the_example_of_the_page_trains_by_its_names(photos, tmp_path):
    flags = words(photos, tmp_path, losses="{features_hold: {margin: 0.1}}", epochs=1, batch_size=4, logging_steps=1)
    assert launch(run, METHODS["compose"], "compose", ["--import", str(EXAMPLE), *flags]) == 0
    assert "loss_features_hold" in (tmp_path / "run" / "log.jsonl").read_text()
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["imports"] == [str(EXAMPLE)]
    (phase,) = METHODS["hold"](hold=3.0).method().phases(SimpleNamespace(id=1))  # pyright: ignore
    assert phase.losses[1].weight == 3.0


def test_a_head_of_ones_own_is_asked_for_where_its_adapter_is_loaded(photos, tmp_path, call):
    (tmp_path / "names_head.py").write_text(HEAD)
    imported = ["--import", str(tmp_path / "names_head.py")]
    trained = call("train", "frozen", *imported, *words(photos, tmp_path, head="mine"))
    assert trained.exit_code == 0, trained.output
    image = photos / "dark" / "0.png"
    assert call("predict", tmp_path / "run", image, *imported).exit_code == 0
    del HEADS["mine"], sys.modules["names_head"]  # as in another process
    own_parts._given.clear()
    refused = call("predict", tmp_path / "run", image)
    assert refused.exit_code == 2 and f"It was trained with --import {tmp_path / 'names_head.py'}" in refused.stderr
    again = call("evaluate", tmp_path / "run", "--dataset", photos, "--json", *imported)
    assert again.exit_code == 0 and '"accuracy"' in again.stdout


def test_a_resume_without_it_says_so(photos, tmp_path, call):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("imports: [names_head.py]")
    refused = call("train", "frozen", *words(photos, tmp_path, head="mine"), "--resume", "auto")
    assert refused.exit_code == 2 and "It was trained with --import names_head.py" in refused.stderr


LOADING = [["predict", "x", EXAMPLE], ["evaluate", "x", "--dataset", "digits"], ["report", "x"], ["export", "x", "y"], ["list"]]


@pytest.mark.parametrize("command", LOADING, ids=lambda command: command[0])
def test_every_command_that_loads_takes_imports(command, call, tmp_path):
    refused = call(*command, "--import", tmp_path / "nowhere.py")
    assert refused.exit_code == 2 and "there is no such file" in refused.stderr
