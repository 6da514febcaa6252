import json
import os
import shutil

import pytest
import tiny
from peft import get_peft_model
from PIL import Image

from hf_cl.backbones import load_backbone, load_processor
from hf_cl.checkpoints.adapter_files import save_adapter_files
from hf_cl.hub.load import load


@pytest.fixture
def adapter(tmp_path):
    """The files of an adapter on the base that ships with hf_cl, written under a umask that lets a group read."""
    config = tiny.ADAPTERS["ONE_PROMPT"](class_names=["ant", "bee"], classes_per_session=[2], layer_tokens={0: 2})
    model = get_peft_model(load_backbone("demo"), config)
    before = os.umask(0o027)
    save_adapter_files(tmp_path / "adapter", model, load_processor("demo"), None)
    os.umask(before)
    return tmp_path / "adapter"


def test_every_file_has_the_mode_that_the_umask_gives(adapter):
    assert {path.stat().st_mode & 0o777 for path in adapter.iterdir()} == {0o640}


def test_the_base_that_ships_is_named_and_a_copy_loads_elsewhere(adapter, tmp_path):
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "demo"
    elsewhere = shutil.copytree(adapter, tmp_path / "elsewhere" / "adapter")
    (best,) = load(elsewhere).predict([Image.new("RGB", (50, 40), "orange")])
    assert {prediction.name for prediction in best} == {"ant", "bee"}
