"""Who is to blame: files of a stranger are told of in a sentence, bugs of ours show as themselves."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from transformers import AutoConfig

import hf_cl.hub.classifier as loading
from hf_cl.adapters.tuner import HeadedTuner
from hf_cl.hub.access import HubError
from hf_cl.hub.load import load
from hf_cl.hub.strangers import clear_errors


def test_a_bug_inside_our_loading_shows_as_itself(run, base_folder, monkeypatch):
    def mistyped(self, file, adapter_name, found):
        return self.peft_confg[adapter_name]  # looked up by peft's __getattr__, and by torch's below it

    with monkeypatch.context() as broken:
        broken.setattr(HeadedTuner, "check_file", mistyped)
        with pytest.raises(AttributeError, match="peft_confg"):
            load(run, base_model=str(base_folder))
    with monkeypatch.context() as broken:
        broken.setattr(loading, "check_processor", None)
        with pytest.raises(TypeError, match="not callable"):
            load(run, base_model=str(base_folder))


@pytest.mark.parametrize("bug", [AttributeError, TypeError, KeyError, IndexError, ZeroDivisionError, AssertionError, RuntimeError])
def test_no_kind_of_bug_is_called_a_damaged_file(bug):
    with pytest.raises(bug), clear_errors("me/photos"):
        raise bug("of ours")


def test_a_mistake_in_how_torch_is_called_is_the_callers():
    with pytest.raises(TypeError), clear_errors("me/photos"):
        torch.nn.Linear(3, "four")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "read",
    [
        lambda: AutoConfig.for_model("vit", hidden_size="wide", num_attention_heads=[]),
        lambda: LoraConfig(r=2, layers_to_transform=1, target_modules="x"),
        lambda: AutoConfig.for_model(["vit"]),
    ],
)
def test_what_a_library_stumbles_over_is_the_files(read):
    with pytest.raises(ValueError, match="me/photos"), clear_errors("me/photos"):
        read()


def test_sentences_stay_sentences():
    with pytest.raises(ValueError, match=r"^The adapter me/photos cannot be loaded: r must be at least 1\.$"), clear_errors("me/photos"):
        raise ValueError("r must be at least 1.")
    with pytest.raises(HubError, match=r"^no network$"), clear_errors("me/photos"):
        raise HubError("no network")
    with pytest.raises(ValueError, match=r"me/photos cannot be loaded.*no space"), clear_errors("me/photos"):
        raise OSError("no space")
