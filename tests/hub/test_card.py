import ast
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import clip_runs
import pytest
import tiny
import yaml
from example_results import SETTINGS, base_to_novel_results, example_results, nasty_results, probed_results, sessions_of
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from peft import get_peft_model
from PIL import Image
from transformers import AutoModelForImageClassification, CLIPModel, ViTImageProcessor

from hf_cl.adapters import CPEClipConfig
from hf_cl.hub.card import ModelCardInput, model_card, scalar_metrics, write_card
from hf_cl.hub.published import PLOTS
from hf_cl.hub.push import push_to_hub
from hf_cl.hub.snippets import PICTURE
from hf_cl.results.results import ParameterCounts

WHOLE_CARD = Path(__file__).parents[1] / "reference" / "card" / "README.md"
CITATION = "@inproceedings{huang2024ovor,\n  title={OVOR: OnePrompt with Virtual Outlier Regularization},\n  year={2024}\n}"


def card_input(results=None, **changes):
    fields = {
        "results": results or example_results(),
        "settings": SETTINGS,
        "base_model": "google/vit-base-patch16-224-in21k",
        "adapter": "me/my-adapter",
        "method": "OVOR",
        "adapter_type": "ONE_PROMPT",
        "citation": CITATION,
        "notes": ["The base has seen ImageNet-21k: high accuracy on its classes is no evidence of learning."],
        "license": "apache-2.0",
        "dataset_id": "me/animals",
    }
    return ModelCardInput(**(fields | changes))


def text_of(**changes):
    return str(model_card(card_input(**changes)))


def code_blocks(card):
    return re.findall(r"^```python\n(.*?)\n```$", card, flags=re.DOTALL | re.MULTILINE)


def test_the_whole_card():
    assert text_of(plots=PLOTS) == WHOLE_CARD.read_text()


def test_write_card(tmp_path):
    path = write_card(tmp_path, card_input(plots=PLOTS))
    assert path == tmp_path / "README.md"
    again = ModelCard.load(path)
    assert str(again) == WHOLE_CARD.read_text()
    assert again.data.base_model == "google/vit-base-patch16-224-in21k"
    assert again.data.tags == ["hf_cl", "continual-learning", "one_prompt"]


def test_every_metric_is_in_the_metadata_by_its_exact_name():
    results = probed_results()
    found = {result.metric_type: result.metric_value for result in model_card(card_input(results)).data.eval_results}
    defined = {name for name, value in results.metrics.items() if isinstance(value, float)}
    assert defined <= set(found)
    assert found["final_accuracy"] == pytest.approx(results.metrics["final_accuracy"], abs=1e-6)
    assert found["base_accuracy[1]"] == 0.8  # a list by its last value
    assert found["windowed_plasticity_4"] == pytest.approx(0.6)
    assert "min_accuracy[1]" not in found  # not defined for the last session
    assert found == pytest.approx(scalar_metrics(results), abs=1e-6)


@pytest.mark.parametrize("base_model", ["google/vit-base", "demo", "open_clip:ViT-B-16/openai", "/home/someone/my vit"])
def test_code_is_python(base_model):
    blocks = code_blocks(text_of(base_model=base_model))
    assert blocks
    for block in blocks:
        ast.parse(block)


@pytest.mark.parametrize("changes", [{"base_model": "open_clip:ViT-B-16/openai"}, {"two_towers": True}], ids=str)
def test_bases_without_a_classifier_of_their_own(changes):
    card = text_of(**changes)
    two_towers = "two_towers" in changes
    assert ("PeftModel" in card) == two_towers and "pipeline(" not in card
    assert ("= AutoModelForZeroShotImageClassification.from_pretrained(" in card) == two_towers
    assert "newly initialized" not in card and "AutoModelForImageClassification" not in card
    assert ("class names inside the adapter are its classifier" in card) == two_towers
    assert 'hf_cl.load("me/my-adapter", revision="session-1")' in card
    assert ("base_model" in yaml.safe_load(card.split("---\n")[1])) == two_towers


def test_the_demo_base_is_found_without_a_network():
    assert "AutoModelForImageClassification.from_pretrained(demo_backbone())" in text_of(base_model="demo")
    card = text_of(base_model="demo_clip")
    assert 'AutoModelForImageClassification.from_pretrained(demo_backbone("demo_clip"))' in card
    assert "The base `demo_clip` is a folder of hf_cl" in card and "`demo_clip` (it ships with hf_cl)" in card


def test_the_revision_of_the_base_is_part_of_the_code():
    environment = example_results().environment | {"backbone_revision": "abc123"}
    assert 'from_pretrained("google/vit-base-patch16-224-in21k", revision="abc123")' in text_of(
        results=example_results(environment=environment)
    )


def test_what_is_not_known_is_left_out():
    metadata = yaml.safe_load(text_of(license=None, dataset_id=None, base_model="/home/someone/vit").split("---\n")[1])
    assert not {"license", "datasets", "base_model"} & set(metadata)
    card = text_of(citation="", notes=())
    assert "## Citation" not in card


def test_nothing_of_this_machine_is_published():
    card = text_of(results=nasty_results(), base_model="/home/someone/vit", adapter="/home/someone/runs/photos")
    assert "someone" not in card


def test_base_to_novel_has_no_matrix():
    card = text_of(results=base_to_novel_results())
    assert "Accuracy matrix" not in card
    assert "| novel | 40 | 60.00 |" in card
    assert "session-k" not in card
    assert "`harmonic_accuracy_within` | **68.57**" in card


def test_long_runs_show_sessions_only():
    matrix = [[0.9] * (t + 1) for t in range(25)]
    names = ("accuracy_matrix", "accuracy_matrix_task_aware", "accuracy_matrix_within", "class_accuracy_matrix")
    classes = [[f"class {t}"] for t in range(25)]
    results = example_results(sessions=sessions_of(classes), test_counts=[20] * 25, times=None, **dict.fromkeys(names, matrix))
    card = text_of(results=results)
    assert "The accuracy matrix of 25 sessions is in `results.json`." in card
    assert "| 24 | 90.00 | 0.00 |" in card


class Html(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def rendered(card):
    return Html(MarkdownIt("commonmark").enable("table").render(card.split("\n---\n", 1)[1]))


def test_names_cannot_break_out_of_markdown():
    harmless, nasty = rendered(text_of()), rendered(text_of(results=nasty_results(), notes=["1. <b>x</b>", "- y"]))
    assert not {"script", "img", "b", "i", "h3"} & set(nasty.tags)
    for tag in ("h1", "h2", "a", "table", "td", "code", "ul", "ol", "hr", "strong"):
        # seven classes in three sessions in both; the second has one note more, and as many tags of every other kind
        assert nasty.tags.count(tag) == harmless.tags.count(tag), tag
    text = "".join(nasty.texts)
    assert '<script>alert("x")</script>' in text
    assert "a | b ` c * d _e_ [f](http://g.example) <img src=x onerror=alert(1)>" in text
    assert "line one line two --- # heading" in text
    assert "{{ 7 * 7 }} {% raw %}" in text
    assert "\u2068قطة سوداء\u2069" in text
    assert "1. <b>x</b>" in text
    assert "\u202e" not in text


def test_names_cannot_break_out_of_yaml():
    metadata = yaml.safe_load(text_of(results=nasty_results(), dataset_id=None).split("---\n")[1])
    assert metadata["license"] == "apache-2.0"
    assert metadata["model-index"][0]["results"][0]["dataset"]["name"] == "<b>$x_1$</b> --- license: evil"


def test_names_cannot_break_out_of_code():
    card = text_of(adapter='x"); import os  # \n```\n# title', citation="@a{\n```\n<script>\n````\n}")
    for block in code_blocks(card):
        calls = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Import)]
        assert "os" not in [alias.name for node in calls for alias in node.names]
    html = rendered(card)
    assert html.tags.count("h1") == 1
    assert "script" not in html.tags


def test_the_code_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    names = ["ant", "bee", "crab", "deer", "eel", "fox", "gnu"]
    tiny.base("vit").save_pretrained(tmp_path / "base")
    base = AutoModelForImageClassification.from_pretrained(tmp_path / "base")
    model = get_peft_model(base, tiny.ADAPTERS["ONE_PROMPT"](class_names=names, classes_per_session=[3, 2, 2]))
    model.save_pretrained(tmp_path / "adapter")
    ViTImageProcessor(size={"height": tiny.SIDE, "width": tiny.SIDE}).save_pretrained(tmp_path / "adapter")
    picture = tmp_path / PICTURE
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (40, 30), "orange").save(picture)
    monkeypatch.chdir(tmp_path)
    by_peft, as_pipeline, by_hf_cl = (run_alone(block, capsys) for block in code_blocks(text_of(base_model="base", adapter="adapter")))
    assert by_peft in names
    assert ast.literal_eval(as_pipeline)[0]["label"] == by_peft
    assert f"Prediction(name='{by_peft}'" in by_hf_cl


def test_the_code_of_a_clip_adapter_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    base = clip_runs.write_base(tmp_path / "base")
    config = CPEClipConfig(class_names=list(clip_runs.NAMES), classes_per_session=[3, 3])
    get_peft_model(CLIPModel.from_pretrained(base), config).save_pretrained(tmp_path / "adapter")
    clip_runs.processor().save_pretrained(tmp_path / "adapter")
    picture = tmp_path / PICTURE
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (40, 30), "orange").save(picture)
    monkeypatch.chdir(tmp_path)
    by_peft, by_hf_cl = (run_alone(block, capsys) for block in code_blocks(text_of(base_model="base", adapter="adapter", two_towers=True)))
    assert by_peft in clip_runs.NAMES and f"Prediction(name='{by_peft}'" in by_hf_cl


def run_alone(block, capsys):
    """What a block prints; it has nothing of the blocks before it."""
    exec(block, {})
    return capsys.readouterr().out.strip()


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_the_code_of_a_pushed_card_runs_as_it_stands(hub, run, base_folder, tmp_path, monkeypatch, capsys):
    hub.put("me/base", {path.name: path.read_bytes() for path in base_folder.iterdir()})
    push_to_hub(run, "me/photos")
    card = hub.files("me/photos")["README.md"].decode()
    picture = tmp_path / PICTURE
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (40, 30), "orange").save(picture)
    monkeypatch.chdir(tmp_path)
    said = [run_alone(block, capsys) for block in code_blocks(card)]
    assert len(said) == 5 and all(said)
    assert len(ast.literal_eval(said[3])) == len(ast.literal_eval(said[4])) == 5  # session-1 of three
    assert f"[me/base]({hub.url}/me/base)" in card and "set `HF_ENDPOINT` to it" in card


def test_the_card_of_a_run_folder_shows_the_sessions_beside_it():
    card = text_of(adapter="runs/photos/adapters/session-2")
    assert 'hf_cl.load("runs/photos/adapters/session-1")' in card and "revision=" not in card
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["model-index"][0]["name"] == "OVOR on animals"


def test_nothing_counts_as_trained_where_nothing_was():
    results = example_results(parameters=ParameterCounts(trainable=1537, total=2_715_457))
    assert "1,537 of 2,715,457 parameters were trained" in text_of(results=results)
    idle = example_results(parameters=results.parameters, sessions=[replace(s, trained=False) for s in results.sessions])
    card = text_of(results=idle)
    assert "were trained" not in card and "Nothing was trained: no optimizer step was taken" in card


def test_the_metadata_are_what_huggingface_hub_reads(tmp_path):
    write_card(tmp_path, card_input())
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.model_name == "me/my-adapter"
    (names,) = {tuple(result.metric_name for result in data.eval_results)}
    assert names == tuple(scalar_metrics(example_results()))
    assert {(r.task_type, r.dataset_type, r.dataset_split) for r in data.eval_results} == {("image-classification", "me/animals", "test")}
    assert yaml.safe_load(data.to_yaml()) == data.to_dict()


def test_pictures_lie_beside_the_card():
    assert "![Accuracy matrix](accuracy_matrix.png)" in text_of(plots=PLOTS)
    assert "![" not in text_of()


def test_time_is_told_where_it_was_measured():
    assert "Training took 2 min 45 s, evaluation 9.8 s; energy was not measured." in text_of()
    assert "energy" not in text_of(results=example_results(times=None))
