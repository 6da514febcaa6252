"""Class names of any kind: in card, report, adapter, YAML and on the terminal they are text, and never a path."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
import yaml
from example_results import SETTINGS, example_results, sessions_of
from hostile_cases import NAMES, cases, check_message, few, names
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image
from typer.testing import CliRunner

from hf_cl.adapters import OnePromptConfig
from hf_cl.cli import app
from hf_cl.hub.card import ModelCardInput, model_card
from hf_cl.hub.predictions import Prediction, Row
from hf_cl.results.display import printable
from hf_cl.results.report import write_report
from hf_cl.results.results import Results
from hf_cl.scenarios import open_images

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
seven = st.lists(names.filter(str.strip), min_size=7, max_size=7, unique=True)


def results_of(classes: list[str]) -> Results:
    return example_results(sessions=sessions_of([classes[:3], classes[3:5], classes[5:]]))


class Tags(HTMLParser):
    """Names of tags and attributes of a page, in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, tuple(name for name, _ in attrs)))


def shape(markdown: str) -> list[str]:
    """Kinds of everything in a text but the words."""
    kinds = []
    for token in MARKDOWN.parse(markdown):
        kinds.append(token.type)
        kinds += [child.type for child in token.children or () if child.type not in ("text", "text_special")]
    return kinds


def card_of(classes: list[str]) -> str:
    return str(
        model_card(
            ModelCardInput(
                results=results_of(classes),
                settings=SETTINGS,
                base_model="demo",
                adapter="runs/x",
                method="OVOR",
                adapter_type="ONE_PROMPT",
            )
        )
    )


PLAIN = [f"class {i}" for i in range(7)]


@few
@given(classes=seven)
def test_the_card_has_the_shape_of_a_card_with_plain_names(classes):
    card = card_of(classes)
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front).keys() == yaml.safe_load(card_of(PLAIN).split("---\n", 2)[1]).keys()
    assert shape(text) == shape(card_of(PLAIN).split("---\n", 2)[2])


def tags(folder, classes: list[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Those of a report, but for what draws its figures."""
    write_report(folder, results_of(classes), SETTINGS, method="OVOR")
    found = Tags((folder / "report.html").read_text(encoding="utf-8")).found
    return [entry for entry in found if entry[0] in ("script", "img", "a", "iframe", "td", "th", "tr")]


@pytest.fixture(scope="module")
def plain_tags(tmp_path_factory):
    return tags(tmp_path_factory.mktemp("plain"), PLAIN)


@few
@given(classes=seven)
def test_the_report_has_the_tags_of_a_report_with_plain_names(tmp_path_factory, plain_tags, classes):
    folder = tmp_path_factory.mktemp("report")
    assert tags(folder, classes) == plain_tags
    assert {path.suffix for path in folder.iterdir()} <= {".html", ".png"}


@cases
@given(classes=st.lists(names, min_size=1, max_size=5))
def test_a_config_holds_the_names_as_they_are_or_refuses_them(tmp_path_factory, classes):
    folder = tmp_path_factory.mktemp("config")
    try:
        config = OnePromptConfig(class_names=classes)
    except ValueError as error:
        check_message(error)
        assert len(set(classes)) < len(classes) or not all(name.strip() for name in classes)
    else:
        config.save_pretrained(folder)
        assert OnePromptConfig.from_pretrained(folder).class_names == classes


@cases
@given(classes=seven)
def test_results_hold_the_names_as_they_are(tmp_path_factory, classes):
    file = tmp_path_factory.getbasetemp() / "named.json"
    results = results_of(classes)
    results.save(file)
    assert Results.load(file) == results and json.loads(file.read_bytes())["sessions"][0]["new_class_names"] == classes[:3]


FILE_NAMES = [name for name in NAMES if name.strip() and not set(name) & {"/", "\0"} and len(name.encode()) < 250]


def write_folder(root, classes: list[str | bytes]):
    for name in classes:
        folder = root / name
        folder.mkdir()
        for i in range(3):
            Image.new("RGB", (4, 4), (i, 0, 0)).save(folder / f"{i}.png")
    return root


def test_folders_of_any_name_are_classes_of_that_name(tmp_path):
    alike = "\u00e9"  # the same as e with an accent, which is a class too
    classes = [name for name in FILE_NAMES if name != alike and name == name.strip()]
    assert sorted(open_images(write_folder(tmp_path, classes)).class_names) == sorted(classes)


def test_names_that_look_alike_are_refused(tmp_path):
    with pytest.raises(ValueError, match="class names that look the same") as caught:
        open_images(write_folder(tmp_path, ["\u00e9", "e\u0301", "plain"]))
    check_message(caught.value)


def test_a_name_that_is_no_text_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"1 class names are no valid text .*caf\\udce9; rename them") as caught:
        open_images(write_folder(tmp_path, ["caf\udce9", "plain"]))
    check_message(caught.value)


@cases
@given(text=names)
def test_nothing_on_the_terminal_is_obeyed(text):
    shown = printable(f"{text} \x1b[31m \u202e")
    assert all(character.isprintable() or character == "\n" for character in shown)


def test_predictions_on_the_terminal_are_text(monkeypatch, tmp_path):
    class Loaded:
        def rows(self, images, *_, **__):
            return [Row(image, [Prediction("\x1b]0;evil\x07 \u202egnp", 0.5)]) for image in images]

    monkeypatch.setattr("hf_cl.hub.load.load", lambda *args, **kwargs: Loaded())
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save("a\x1b[2J.png")
    done = CliRunner().invoke(app, ["predict", "owner/adapter", "a\x1b[2J.png"])
    assert done.exit_code == 0 and "\x1b" not in done.output and "\u202e" not in done.output
