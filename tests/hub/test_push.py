"""Pushing over real HTTP to a Hub on this machine."""

from __future__ import annotations

import copy
import json
import logging
import re
import shutil

import pytest
import tiny
import torch
from example_run import TOKEN, files_of, make_run
from huggingface_hub import ModelCard, constants
from peft import PeftModel
from transformers import AutoModelForImageClassification
from typer.testing import CliRunner

import hf_cl
from hf_cl.checkpoints.statistics_files import STATISTICS_FILE
from hf_cl.cli import app
from hf_cl.hub.access import HubError
from hf_cl.hub.fetch import adapter_folder
from hf_cl.hub.push import push_to_hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub 2.4 calls httpx2 by an old name
ADAPTER = {"adapter_config.json", "adapter_model.safetensors", "preprocessor_config.json"}
RECORDS = {"results.json", "README.md", "accuracy_matrix.png", "accuracy_over_sessions.png"}


def logits(model):
    with torch.no_grad():
        return model.eval()(tiny.images()).logits


def test_one_commit_and_one_tag_per_session(hub, run):
    lines = []
    pushed = push_to_hub(run, "me/photos", say=lines.append)
    assert (pushed.url, pushed.new, pushed.present, pushed.remarks) == (
        f"{hub.url}/me/photos", ["session-0", "session-1", "session-2"], [], [],
    )  # fmt: skip
    assert lines[1] == "Session 1: 2 new classes, 5 in all (revision session-1)"
    messages = [commit.message for commit in hub.repositories["me/photos"].commits]
    assert messages[1:] == [line.split(" (")[0] for line in lines] + ["Results, plots and card"]
    for k in range(3):
        there, here = hub.files("me/photos", f"session-{k}"), files_of(run / "adapters" / f"session-{k}")
        assert there.keys() == ADAPTER
        for name in ("adapter_model.safetensors", "preprocessor_config.json"):
            assert there[name] == here[name]
        assert json.loads(there["adapter_config.json"]) == json.loads(here["adapter_config.json"])
    assert hub.files("me/photos").keys() == ADAPTER | RECORDS  # no checkpoint, no log, no settings file


def test_every_session_loads_to_the_bit(hub, run, base_folder):
    hub.put("me/base", files_of(base_folder))
    push_to_hub(run, "me/photos")
    for k, classes in ((0, 3), (1, 5), (2, 7)):
        base = AutoModelForImageClassification.from_pretrained("me/base")
        there = PeftModel.from_pretrained(base, "me/photos", revision=f"session-{k}")
        here = PeftModel.from_pretrained(tiny.base("vit"), run / "adapters" / f"session-{k}")
        assert torch.equal(logits(there), logits(here))
        assert len(there.config.id2label) == classes
    latest = PeftModel.from_pretrained(AutoModelForImageClassification.from_pretrained("me/base"), "me/photos")
    assert torch.equal(logits(latest), logits(here))


def test_the_card_on_the_hub_names_the_repository(hub, run):
    push_to_hub(run, "me/photos")
    files = hub.files("me/photos")
    card = ModelCard(files["README.md"].decode())
    assert (card.data.model_name, card.data.base_model, card.data.license) == ("me/photos", "me/base", "apache-2.0")
    assert 'PeftModel.from_pretrained(base, "me/photos")' in card.text and "@a{b}" in card.text
    assert set(re.findall(r"!\[[\w ]+\]\((.*)\)", card.text)) < files.keys()
    published = b"".join(content for name, content in files.items() if not name.endswith("safetensors"))
    assert b"someone" not in published and str(run).encode() not in published


def test_an_edited_card_is_published_as_it_stands(hub, run):
    (run / "README.md").write_text("---\nlicense: mit\n---\nMine.\n")
    (remark,) = push_to_hub(run, "me/photos").remarks
    assert hub.files("me/photos")["README.md"].endswith(b"Mine.\n") and "was edited" in remark


def test_pushing_again_sends_nothing_and_adds_what_is_new(hub, run, tmp_path):
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    shutil.rmtree(unfinished / "adapters" / "session-2")
    for name in ("card.json", "README.md", "accuracy_matrix.png", "accuracy_over_sessions.png"):
        (unfinished / name).unlink()
    first = push_to_hub(unfinished, "me/photos")
    assert first.new == ["session-0", "session-1"] and "The run is not finished" in first.remarks[0]
    assert "of type `ONE_PROMPT`" in hub.files("me/photos")["README.md"].decode()
    second = push_to_hub(run, "me/photos")
    assert (second.new, second.present) == (["session-2"], ["session-0", "session-1"])
    commits, sent = len(hub.repositories["me/photos"].commits), len(hub.requests)
    third = push_to_hub(run, "me/photos")
    assert (third.new, len(third.present), len(hub.repositories["me/photos"].commits)) == ([], 3, commits)
    assert not [path for method, path in hub.requests[sent:] if method == "PUT" or "/commit/" in path or "/tag/" in path]
    assert hub.files("me/photos").keys() == ADAPTER | RECORDS


def test_a_folder_that_is_not_there_is_not_called_a_run_folder(hub, run):
    with pytest.raises(ValueError, match=r"There is no run folder '.*phots'. Did you mean '.*photos'\?"):
        push_to_hub(run.with_name("phots"), "me/photos")


# What stands in the way
def test_another_run_s_tags_are_not_touched(hub, run, tmp_path):
    push_to_hub(make_run(tmp_path / "other", sessions=1, seed=9), "me/photos")
    before = copy.deepcopy(hub.repositories)
    with pytest.raises(HubError, match=r"has a tag session-0 with another adapter_model.safetensors: .*hf repos tag delete me/photos"):
        push_to_hub(run, "me/photos")
    assert hub.repositories == before


def test_private(hub, run):
    push_to_hub(run, "me/photos", private=True)
    assert hub.repositories["me/photos"].private
    push_to_hub(run, "me/photos")  # stays as it is
    assert hub.repositories["me/photos"].private
    push_to_hub(run, "me/open")
    with pytest.raises(HubError, match="me/open exists and is public"):
        push_to_hub(run, "me/open", private=True)


@pytest.mark.parametrize(
    ("base", "published"),
    [
        ("/somewhere/hf_cl/demo/vit_tiny_demo", "demo"),
        ("/somewhere/hf_cl/demo/clip_tiny_demo", "demo_clip"),
        ("open_clip:ViT-B-16/openai", "open_clip:ViT-B-16/openai"),
        ("google/vit-base-patch16-224", "google/vit-base-patch16-224"),
    ],
)
def test_bases_that_others_find(hub, tmp_path, base, published):
    push_to_hub(make_run(tmp_path / "run", base_name=base, sessions=1), "me/photos")
    assert json.loads(hub.files("me/photos")["adapter_config.json"])["base_model_name_or_path"] == published
    assert json.loads(hub.files("me/photos")["results.json"])["environment"]["backbone"] == published


@pytest.mark.parametrize("base", ["/home/someone/vit", "./vit", "open_clip:ViT-B-16//home/someone/w.safetensors", ""])
def test_a_base_of_this_machine_needs_its_name_on_the_hub(hub, tmp_path, base):
    run = make_run(tmp_path / "run", base_name=base, sessions=1)
    with pytest.raises(ValueError, match=r"nobody else can load. Push with --base_model ID"):
        push_to_hub(run, "me/photos")
    assert not hub.repositories
    push_to_hub(run, "me/photos", base_model="me/base")
    assert json.loads(hub.files("me/photos", "session-0")["adapter_config.json"])["base_model_name_or_path"] == "me/base"
    assert not [name for name, data in hub.files("me/photos").items() if b"someone" in data]


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (lambda run: shutil.rmtree(run / "adapters"), "no session has ended yet"),
        (lambda run: shutil.rmtree(run / "adapters" / "session-1"), "lacks session-1"),
        (lambda run: (run / "adapters/session-1/adapter_model.safetensors").write_bytes(b"x" * 100), "session-1 is not whole"),
        (lambda run: (run / "adapters/session-2/adapter_config.json").write_text('{"a": '), "session-2 is not whole"),
        (lambda run: (run / "adapters/session-2/adapter_config.json").write_text("{}"), "names no classes"),
        (lambda run: (run / "results.json").write_text("{}"), "format_version"),
        (lambda run: (run / "card.json").write_text("{"), "card.json is not valid JSON"),
        (lambda run: (run / "card.json").write_text('{"__class__": 1}'), "is not what hf_cl writes"),
        (lambda run: (run / "config.yaml").write_text("a: ["), "not valid YAML"),
    ],
)
def test_a_broken_run_sends_nothing(hub, run, breaks, message):
    breaks(run)
    with pytest.raises(ValueError, match=message):
        push_to_hub(run, "me/photos")
    assert not hub.requests


# The command, and what it leaves
def test_the_command(hub, run):
    result = CliRunner().invoke(app, ["push", str(run), "me/photos", "--private"])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"{hub.url}/me/photos: 3 sessions pushed, 0 were there"
    assert hub.repositories["me/photos"].private
    assert len(result.output.splitlines()) == 4  # a line per session and one at the end: no bars of other libraries
    result = CliRunner().invoke(app, ["push", str(run), "me/photos", "--private"])
    assert result.output.splitlines() == [f"{hub.url}/me/photos: 0 sessions pushed, 3 were there"]
    result = CliRunner().invoke(app, ["push", str(run), "you/photos"])
    assert result.exit_code == 2 and result.stderr.startswith("hf-cl: The token belongs to 'me'") and result.stderr.count("\n") == 1
    assert CliRunner().invoke(app, ["push", str(run / "nothing"), "me/photos"]).exit_code == 2


def test_the_command_says_all_that_stands_in_its_way(hub, run, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    result = CliRunner().invoke(app, ["push", f"{run}s", "photos"])
    folder, name, token = result.stderr.splitlines()
    assert result.exit_code == 2 and not hub.requests
    assert folder == f"hf-cl: There is no run folder '{run}s'. Did you mean '{run}'?"
    assert name == "'photos' lacks its owner: a repository is owner/name, such as your-name/photos."
    assert token.startswith("Pushing to photos needs a token")


def test_the_token_is_nowhere(hub, run, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    lines = []
    push_to_hub(run, "me/photos", say=lines.append)
    hub.interrupt = lambda number, method, path: 500
    with pytest.raises(HubError) as failure:
        push_to_hub(run, "me/photos")
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    published = [data for commit in hub.repositories["me/photos"].commits for data in commit.files.values()]
    assert written and published
    for text in [*written, *published, caplog.text.encode(), str(failure.value).encode(), "\n".join(lines).encode()]:
        assert TOKEN.encode() not in text


def test_public_name():
    assert hf_cl.push_to_hub is push_to_hub


@pytest.mark.parametrize(("policy", "kept"), [("last", ["session-2"]), ("every:2", ["session-0", "session-2"])])
def test_sessions_whose_adapters_were_not_kept_have_no_revision(hub, run, policy, kept):
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + f"\nkeep_adapters: {policy}\n")
    for path in (run / "adapters").iterdir():
        if path.name not in kept:
            shutil.rmtree(path)
    pushed = push_to_hub(run, "me/photos")
    assert pushed.new == kept and "not kept (keep_adapters)" in pushed.remarks[0]
    with pytest.raises(ValueError, match=r"no revision 'session-1'; it has .*were not kept \(keep_adapters\)"):
        hf_cl.load(run, revision="session-1")
    shutil.rmtree(run / "adapters" / kept[0])
    if len(kept) > 1:  # one that the setting keeps is missing
        with pytest.raises(ValueError, match="lacks session-0"):
            push_to_hub(run, "me/photos")


def test_class_statistics_travel_and_are_fetched_by_whom_they_serve(hub, run):
    for folder in sorted((run / "adapters").iterdir()):
        (folder / STATISTICS_FILE).write_bytes(f"statistics after {folder.name}".encode())
    push_to_hub(run, "me/photos")
    assert hub.files("me/photos", "session-1").keys() == ADAPTER | {STATISTICS_FILE}
    there = adapter_folder("me/photos", "session-1")
    assert not (there / STATISTICS_FILE).exists()
    assert (adapter_folder("me/photos", "session-1", statistics=True) / STATISTICS_FILE).read_bytes() == b"statistics after session-1"
