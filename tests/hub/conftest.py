"""A Hub of our own, and a run to push to it."""

from __future__ import annotations

import shutil

import huggingface_hub
import pytest
import tiny
from example_run import TOKEN, make_run
from huggingface_hub import constants
from loopback_hub import serving
from transformers import ViTImageProcessor

from hf_cl.hub import access


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """huggingface_hub talks to this server, with a token, an empty cache and no patience."""
    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.url)
        monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda seconds: None)
        monkeypatch.setattr(access, "WAITS", (0.0,))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        huggingface_hub.close_session()


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    """A tiny ViT with two labels, and its image processor."""
    folder = tmp_path_factory.mktemp("base")
    tiny.base("vit").save_pretrained(folder)
    ViTImageProcessor(size={"height": tiny.SIDE, "width": tiny.SIDE}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def run_template(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "photos")


@pytest.fixture
def run(run_template, tmp_path):
    """A fresh copy of a finished run of three sessions whose base is `me/base`."""
    return shutil.copytree(run_template, tmp_path / "photos")
