"""The command line: a mistake is exit status 2 and at most three lines, never a traceback, and nothing is written."""

from __future__ import annotations

import json

import pytest
from hostile_cases import NAMES, cases, few, names, values
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from hf_cl.cli import app

TRAIN = ["train", "ovor", "--config", "demo", "--output_dir", "never"]


@pytest.fixture(autouse=True, scope="module")
def empty_folder(tmp_path_factory):
    """Every case runs in a folder that stays as it is, without a network."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("here")
        (folder / "empty").mkdir()
        (folder / "text.txt").write_text("no adapter")
        (folder / "torn").mkdir()
        (folder / "torn" / "adapter_config.json").write_text('{"peft_type": "ONE_PROMPT"')
        (folder / "torn" / "adapter_model.safetensors").touch()
        (folder / "run" / "adapters").mkdir(parents=True)
        (folder / "one").mkdir()
        Image.new("RGB", (4, 4)).save(folder / "one" / "1.png")
        (folder / "list.yaml").write_text("- 1\n- 2\n")
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}  # "never" is the run folder: some mistakes show in the run
        patch.chdir(folder)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable is read once, when another test has imported it
        yield folder
        after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if folder / "never" not in (path, *path.parents)}
        assert after == before


def check(arguments: list[str], *named: str, status: int = 2) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), arguments
    assert done.exit_code == status, (arguments, done.output)
    assert "Traceback" not in done.output
    start, begun, rest = done.stderr.strip().rpartition("\nhf-cl: ")  # some mistakes show once the run has said what it understood
    assert not begun or start.startswith("digits: 10 classes, "), done.stderr
    message = f"hf-cl: {rest}" if begun else rest
    own = message.count("\n") < 3 and message.startswith("hf-cl:")
    assert own or message.startswith("Usage:"), message  # Usage: typer's own words about flags
    assert not [name for name in named if name not in message], message


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["predict", "nowhere", "one/1.png"], "nowhere"),
        (["predict", "empty", "one/1.png"], "empty"),
        (["predict", "text.txt", "one/1.png"], "text.txt"),
        (["predict", "torn", "one/1.png"], "adapter_config.json is not valid JSON"),
        (["predict", "run", "one/1.png"], "no session has ended yet"),
        (["predict", "owner/name", "one/1.png"], "owner/name"),
        (["predict", "x" * 300, "one/1.png"], "x"),
        (["predict", "owner/" + "x" * 300, "one/1.png"], "x"),
        (["predict", "empty", "x.png", "x" * 300], "There is no file 'x.png'"),
        (["predict"], ""),
        (["predict", "owner/name"], ""),
        (["predict", "owner/name", "x.png", "--top_k", "many"], ""),
        (["train", "ovour"], "Did you mean 'ovor'"),
        (["train"], ""),
        (["trian"], ""),
        ([*TRAIN, "--dataset", "nowhere/at all"], "nowhere/at all"),
        ([*TRAIN, "--dataset", "empty"], "holds no images"),
        ([*TRAIN, "--dataset", "one"], "no class folders"),
        ([*TRAIN, "--dataset", "x" * 300], "x"),
        ([*TRAIN, "--dataset", "text.txt"], "text.txt"),
        ([*TRAIN, "--backbone", "nowhere"], "nowhere"),
        ([*TRAIN, "--backbone", "empty"], "empty"),
        ([*TRAIN, "--backbone", "open_clip:nowhere"], "nowhere"),
        ([*TRAIN, "--batch_size", "-1"], "batch_size"),
        ([*TRAIN, "--batch_size", "1e3.5"], "batch_size"),
        ([*TRAIN, "--num_base_classes", "99"], "num_base_classes"),
        ([*TRAIN, "--class_order", "alphabetic"], "class_order"),
        ([*TRAIN, "--class_order_seed", "-1"], "class_order_seed"),
        ([*TRAIN, "--augmentation", "crops"], "crops"),
        ([*TRAIN, "--head", "{type: liner}"], "liner"),
        ([*TRAIN, "--layer_tokens", "{99: 5}"], "99"),
        ([*TRAIN, "--output_dir", "text.txt/run"], "text.txt"),
        ([*TRAIN, "--output_dir", "text.txt"], "text.txt"),
        ([*TRAIN, "--output_dir", "x" * 300], "x"),
        (["train", "ovor", "--config", "list.yaml"], "list.yaml"),
        (["train", "ovor", "--config", "empty"], "empty"),
    ],
)
def test_a_mistake_is_said_in_three_lines(arguments, named):
    check(arguments, named)


words = st.one_of(
    st.sampled_from(
        [*(name for name in NAMES if "\0" not in name), "--", "-", "--help=x", "--config", "demo", "--output_dir", "never", "owner/name"]
    ),
    names.filter(lambda name: "\0" not in name),
)


@cases
@given(command=st.sampled_from(["predict", "train", "train ovor"]), arguments=st.lists(words, max_size=4))
def test_any_words_are_a_mistake_or_help(command, arguments):
    done = CliRunner().invoke(app, [*command.split(), *arguments, *(["--no_such_setting"] if command.startswith("train") else [])])
    assert done.exception is None or isinstance(done.exception, SystemExit), (command, arguments, done.exception)
    assert done.exit_code in (0, 2) and "Traceback" not in done.output


SETTINGS = [
    "dataset",
    "backbone",
    "class_order",
    "index_list",
    "image_column",
    "test_split",
    "protocol",
    "augmentation",
    "head",
    "layer_tokens",
]
SETTINGS += [
    "batch_size",
    "num_base_classes",
    "classes_per_session",
    "class_order_seed",
    "seed",
    "learning_rate",
    "validation_fraction",
    "epochs",
]


@few
@given(setting=st.sampled_from(SETTINGS), value=values)
def test_any_value_of_a_setting_trains_or_is_a_mistake(empty_folder, setting, value):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_cl.run.ContinualTrainer.fit", lambda trainer: None)  # everything before the first step is real
        patch.setattr("hf_cl.run.ContinualTrainer.finish", lambda trainer: None)
        text = json.dumps(value).replace("\\u0000", "")
        done = CliRunner().invoke(app, [*TRAIN, f"--{setting}={text}"])
    assert done.exception is None or isinstance(done.exception, SystemExit), (setting, text, done.exception)
    assert done.exit_code in (0, 2) and "Traceback" not in done.output
    assert done.exit_code == 0 or done.stderr.strip().count("\n") < 5, done.stderr
