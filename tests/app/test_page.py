"""`hf-cl app` in a real browser; skipped where gradio, selenium, Chromium or its driver are not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
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
    found = browser.find_elements("css selector", f"#{element} [data-testid='label-output-value']")
    return found[0].text if found else ""


def choose(browser, element, option):
    """Pick an option of a drop-down."""
    browser.find_element("css selector", f"#{element} input").click()

    def offered():
        return [found for found in browser.find_elements("css selector", "[role=option]") if found.text.strip().endswith(option)]

    wait_for(offered, option)[0].click()


@pytest.fixture(scope="module")
def address(run):
    """The page as the command serves it, in a process of its own."""
    if find_spec("gradio") is None:
        pytest.skip("gradio is not installed (extra app)")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "hf_cl.cli", "app", str(run), "--no-browser"]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    with server:
        yield server.stdout.readline().split()[0]
        server.terminate()


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


def test_without_gradio_the_command_says_how_to_get_it(monkeypatch, run):
    monkeypatch.setattr("hf_cl.cli.app_page.find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["app", str(run)])
    assert result.exit_code == 2 and "pip install '.[app]' in the clone" in result.stderr
