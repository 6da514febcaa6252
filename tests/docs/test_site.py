"""The documentation builds, and a reader's browser asks nobody else for anything."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(importlib.util.find_spec("material") is None, reason="needs mkdocs-material: pip install '.[docs]'")


def build(folder: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def site(once):
    return once("site", build)


def test_it_has_the_pages_of_the_repository_too(site):
    for page in ("index.html", "CONTRIBUTING/index.html", "model_cards/index.html", "adapters/glad/index.html"):
        assert (site / page).is_file(), page
    assert not list(site.glob("**/hooks.py")) and not list(site.glob("**/draw.py"))


def test_examples_are_shown_and_not_named(site):
    page = (site / "add_your_own" / "index.html").read_text()
    assert "code of examples" not in page and "_create_and_replace" in page and "python test" not in page


def test_links_between_repository_pages_are_links_of_the_site(site):
    assert 'href="../add_your_own/"' in (site / "CONTRIBUTING" / "index.html").read_text()
    assert 'href="../../model_cards/ovor_cifar100_small/"' in (site / "adapters" / "one_prompt" / "index.html").read_text()


def test_nothing_is_fetched_from_elsewhere(site):
    for page in site.rglob("*.html"):
        tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text())
        foreign = [tag for tag in tags if re.search(r"""(?:src|href|srcset)=["']?(?:https?:)?//""", tag) and "canonical" not in tag]
        assert not foreign, f"{page.relative_to(site)}: {foreign}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", sheet.read_text()), sheet.name
