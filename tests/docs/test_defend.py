"""The page that goes from pictures to a published model, with a search that is one: the base and a candidate."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from loopback_hub import serving

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_from_pictures_to_a_published_model(tmp_path):
    """`test_docs.py` follows the page too, with the base's config in the place of the search."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT), "HF_CL_SEARCH": "1"}
    command = [sys.executable, str(ROOT / "tests" / "run_snippets.py"), str(ROOT / "docs" / "defend_a_model.md")]
    with serving() as hub:
        environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_loopback", "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    runs = tmp_path / "docs-defend_a_model" / "runs"
    assert (runs / "data" / "data.html").is_file() and (runs / "tune" / "tune.html").is_file() and (runs / "compare.html").is_file()
    assert hub.repositories["me/defended"].tags.keys() == {"session-0", "session-1"}
    card = hub.files("me/defended")["README.md"].decode()
    assert "distilled from 3 runs" in card
