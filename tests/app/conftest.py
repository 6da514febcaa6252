"""One small run for all tests of the page."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from trained_run import train_digits

from hf_cl.results.results import Results


@pytest.fixture(scope="session")
def run(once, tmp_path_factory):
    folder = shutil.copytree(once("digits", train_digits), tmp_path_factory.mktemp("app") / "run")
    results = Results.load(folder / "results.json")
    replace(results, protocol=replace(results.protocol, dataset="<b>digits</b> & more")).save(folder / "results.json")
    return folder
