"""`hf-cl app` in a real browser; skipped where gradio, selenium, Chromium or its driver are not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from taught_run import train_photos, write_photos
from trained_run import digit
from typer.testing import CliRunner

from hf_cl.cli import app

PATIENCE = 240
"""Seconds."""


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
        "--disable-background-networking",
        "--disable-component-update",
        "--window-size=1200,900",
    ):
        options.add_argument(flag)
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def wait_for(condition, what):
    for _ in range(10 * PATIENCE):
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come")


def best(browser, element):
    """The large name of an answer."""
    found = browser.find_elements("css selector", f"#{element} .best")
    return found[0].text if found else ""


def choose(browser, element, option):
    """Pick an option of a drop-down."""
    browser.find_element("css selector", f"#{element} input").click()

    def offered():
        return [found for found in browser.find_elements("css selector", "[role=option]") if found.text.strip().endswith(option)]

    wait_for(offered, option)[0].click()


@contextmanager
def served(run):
    """The page as the command serves it, in a process of its own: its address."""
    if find_spec("gradio") is None:
        pytest.skip("gradio is not installed (extra app)")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "hf_cl.cli", "app", str(run), "--no-browser"]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    with server:
        try:
            yield server.stdout.readline().split()[0]
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def address(run):
    with served(run) as address:
        yield address


def open_tab(browser, name):
    """A tab of the page, once it is there."""

    def tabs():
        return [tab for tab in browser.find_elements("css selector", "button[role=tab]") if tab.text.strip() == name]

    wait_for(tabs, name)[0].click()


def test_drop_an_image_and_ask_an_earlier_session(browser, address, tmp_path):
    assert address.startswith("http://127.0.0.1:")
    browser.get(address)
    drop = wait_for(lambda: browser.find_elements("css selector", "#image input[type=file]"), "the place for an image")
    assert browser.find_element("css selector", "h1").text == "nearest class mean on <b>digits</b> & more"
    drop[0].send_keys(str(digit(7, tmp_path)))
    wait_for(lambda: best(browser, "now") and best(browser, "then"), "an answer")
    assert best(browser, "now") == "7" and "%" in browser.find_element("id", "now").text
    assert best(browser, "then") in list("01234")  # the earlier session did not know a 7
    assert "session-0 knows 5 of 10 classes" in browser.find_element("id", "knew").text
    choose(browser, "earlier", "session-1")
    wait_for(lambda: best(browser, "then") == "7", "the later session's answer")
    choose(browser, "session", "session-0")
    wait_for(lambda: best(browser, "now") != "7", "the earlier session's answer")
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert loaded and all(name.startswith((address, "data:", "blob:")) for name in loaded)  # nothing from elsewhere


def test_classes_examples_and_several_pictures(browser, address, tmp_path):
    browser.get(address)
    open_tab(browser, "Classes")
    rows = wait_for(lambda: browser.find_elements("css selector", "#class-table tbody tr"), "the classes")
    assert len(rows) == 10 and "%" in rows[7].text and browser.find_elements("css selector", "#class-table img[alt]")
    open_tab(browser, "Several pictures")
    place = wait_for(lambda: browser.find_elements("css selector", "#files input[type=file]"), "the place for pictures")
    place[0].send_keys("\n".join(str(digit(label, tmp_path)) for label in (3, 7)))
    wait_for(lambda: len(browser.find_elements("css selector", "#several figure")) == 2, "two answers")
    said = [caption.text.split()[0] for caption in browser.find_elements("css selector", "#several figcaption")]
    assert said[1] == "7" and said[0] in list("0123456789")
    open_tab(browser, "Teach")
    wait_for(lambda: "start `hf-cl app` from where the run was started" in browser.find_element("css selector", "body").text, "the reason")


def test_programs_ask_by_gradio_client(address, tmp_path):
    client = pytest.importorskip("gradio_client", reason="gradio is not installed (extra app)")
    page = client.Client(address, verbose=False)
    best, *others = page.predict(client.handle_file(digit(7, tmp_path)), api_name="/predict")
    assert best["name"] == "7" and len(others) == 4 and best["score"] > others[0]["score"]
    earlier = page.predict(client.handle_file(digit(7, tmp_path)), "session-0", api_name="/predict")
    assert {one["name"] for one in earlier} == set("01234")


@pytest.mark.parametrize("tab", ["One picture", "Several pictures", "Classes", "Teach"])
def test_axe_finds_nothing_serious(tab, browser, taught, tmp_path):
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    browser.get(taught[1])
    drop = wait_for(lambda: browser.find_elements("css selector", "#image input[type=file]"), "the place for an image")
    drop[0].send_keys(str(digit(7, tmp_path)))
    wait_for(lambda: best(browser, "now"), "an answer")
    open_tab(browser, tab)
    time.sleep(1)
    browser.execute_script(next(Path(axe.__file__).parent.rglob("axe.min.js")).read_text())
    found = browser.execute_async_script("const done = arguments[0]; axe.run(document).then(done)")
    serious = {
        f"{fault['id']}: {fault['nodes'][0]['html'][:120]}" for fault in found["violations"] if fault["impact"] in ("serious", "critical")
    }
    assert not serious


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """(folder, address) of a run that can be taught."""
    folder = tmp_path_factory.mktemp("taught")
    with served(train_photos(folder, split=True)) as address:
        yield folder, address


def test_teach_a_class(browser, taught):
    folder, address = taught
    browser.get(address)
    open_tab(browser, "Teach")
    name = wait_for(lambda: browser.find_elements("css selector", "#lesson-class input"), "the place for a name")[0]
    name.send_keys("rose\n")
    place = browser.find_element("css selector", "#lesson-pictures input[type=file]")
    place.send_keys("\n".join(map(str, write_photos(folder / "new", "rose", 6))))
    wait_for(lambda: "0-5" in browser.find_element("id", "lesson-pictures").text, "the pictures")
    browser.find_element("id", "collect").click()
    wait_for(lambda: "rose (new): 6" in browser.find_element("id", "collected").text, "the collection")
    browser.find_element("id", "learn").click()
    wait_for(lambda: "New: rose 100 %" in browser.find_element("id", "changed").text, "what changed")
    open_tab(browser, "Classes")
    wait_for(lambda: len(browser.find_elements("css selector", "#class-table tbody tr")) == 3, "three classes")
    assert (folder / "run" / "adapters" / "session-2").is_dir()


def test_without_gradio_the_command_says_how_to_get_it(monkeypatch, run):
    monkeypatch.setattr("hf_cl.cli.app_page.find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["app", str(run)])
    assert result.exit_code == 2 and "pip install '.[app]' in the clone" in result.stderr
