"""`hf-cl app` in a real browser; skipped where gradio, selenium, Chromium or its driver are not installed."""

from __future__ import annotations

import shutil
import sys
import time

import pytest
import torch
from compared_runs import write_run
from trained_run import digit, train_digits

gradio = pytest.importorskip("gradio", reason="gradio is not installed (extra app)")
from hf_cl.app.page import as_label, build_page, serve
from hf_cl.app.sessions import ONLY, Place, SessionModels, sessions_of
from hf_cl.hub.load import Prediction, load

# gradio's own: it reads deprecated names of starlette and leaves an event loop open when a page closes
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::ResourceWarning")]
PATIENCE = 120


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_digits(tmp_path_factory.mktemp("app") / "run")


@pytest.fixture(scope="module")
def models(run):
    return SessionModels(sessions_of(str(run)))


def test_every_session_answers_as_its_own_adapter_does(models, run, tmp_path):
    image = digit(7, tmp_path)
    assert models.names == ["session-0", "session-1"]
    for name in ("session-1", "session-0", "session-1"):  # switched back, the first is what it was
        alone = load(run / "adapters" / name).predict([image], top_k=3)[0]
        from PIL import Image

        mine = models.predict(name, Image.open(image), top_k=3)
        assert [p.name for p in mine] == [p.name for p in alone]
        assert [p.score for p in mine] == pytest.approx([p.score for p in alone], abs=1e-6)
    assert models.classes_of("session-0") == list("01234") and len(models.classes_of("session-1")) == 10


def test_there_is_one_backbone(models):
    weights = [p for name, p in models.model.named_parameters() if name.endswith("embeddings.cls_token")]
    assert len(weights) == 1 and isinstance(weights[0], torch.Tensor)


def test_what_is_a_session(run, tmp_path):
    assert sessions_of(str(run / "adapters" / "session-0")) == {ONLY: Place(str(run / "adapters" / "session-0"))}
    empty = write_run(tmp_path / "empty")
    (empty / "adapters").mkdir()
    with pytest.raises(ValueError, match="no session has ended yet"):
        sessions_of(str(empty))
    for name in ("session-10", "session-9", "other"):
        (empty / "adapters" / name).mkdir()
    assert list(sessions_of(str(empty))) == ["session-9", "session-10"]


def test_names_that_look_the_same_stay_two():
    shown = as_label([Prediction("a\nb", 0.5), Prediction("a b", 0.3)])
    assert shown == {"a b": 0.5, "a b (another)": 0.3}


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


@pytest.mark.skipif(sys.platform == "win32", reason="the driver is looked for by its Unix name")
def test_drop_an_image_and_ask_an_earlier_session(models, browser, tmp_path):
    page = build_page(models, "<b>digits</b> & more")
    address = serve(page, port=None, open_browser=False, block=False)
    try:
        assert address.startswith("http://127.0.0.1:")
        browser.get(address)
        drop = wait_for(lambda: browser.find_elements("css selector", "#image input[type=file]"), "the place for an image")
        assert "<b>digits</b> & more" in browser.find_element("css selector", "h1").text
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
    finally:
        page.close()
