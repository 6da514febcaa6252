"""The documentation builds, and a reader's browser asks nobody else for anything."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import hf_cl

ROOT = Path(__file__).parents[2]

MISSING = [name for name in ("material", "mkdocstrings_handlers.python") if importlib.util.find_spec(name.split(".")[0]) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}: pip install '.[docs]'")


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


def test_every_public_name_is_in_the_reference(site):
    rooms = {"index": "hf_cl"} | {page.stem: f"hf_cl.{page.stem}" for page in (ROOT / "docs" / "api").glob("*.md") if page.stem != "index"}
    assert {"contracts", *hf_cl._LAZY_MODULES, "adapters", "parts", "probes", "backbones", "run"} <= rooms.keys()
    for page, room in rooms.items():
        module = importlib.import_module(room)
        text = (site / "api" / ("" if page == "index" else page) / "index.html").read_text()
        anchors = set(re.findall(r'id="([^"]+)"', text))
        for name in vars(module).get("__all__") or [name for name, value in vars(module).items() if of(module, name, value)]:
            value = getattr(module, name)
            places = {f"{room}.{name}", f"{value.__module__ if isinstance(value, type | FunctionType) else room}.{name}"}
            assert places & anchors or isinstance(value, ModuleType), f"{room}.{name}"


def of(module, name, value):
    return isinstance(value, type | FunctionType) and value.__module__ == module.__name__ and not name.startswith("_")


def test_examples_are_shown_and_not_named(site):
    page = (site / "add_your_own" / "index.html").read_text()
    assert "code of examples" not in page and "_create_and_replace" in page and "python test" not in page


def test_the_notebook_is_a_page_and_a_file(site):
    page = (site / "notebooks" / "quick_start" / "index.html").read_text()
    assert 'href="../quick_start.ipynb"' in page and "import" in page
    assert 'href="../notebooks/quick_start/"' in (site / "quick_start" / "index.html").read_text()  # in the menu
    assert (site / "notebooks" / "quick_start.ipynb").is_file()


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
