"""Takes the pictures of report, comparison, page and terminal: python docs/figures/screenshots.py

Trains two small runs on digits that need no network, and looks at what they leave through Chromium without a window. Needs Chromium with
its driver, selenium, and the extra `app`. `screenshots.json` says which version was looked at; a test refuses pictures of another one.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import rich.terminal_theme
from rich.console import Console
from rich.text import Text

import hf_cl

FOLDER = Path(__file__).parent
RECORD = FOLDER / "screenshots.json"
METHODS = ("nearest_class_mean", "frozen")
WIDTH, HEIGHT = 1200, 900


def hf_cl_says(*arguments: str) -> str:
    """What the command prints."""
    words = [sys.executable, "-m", "hf_cl.cli", *arguments]
    return subprocess.run(words, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout


def browser() -> Any:
    """Chromium without a window."""
    from selenium import webdriver  # noqa: PLC0415 (of this script alone)

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={WIDTH},{HEIGHT}"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def terminal(said: str) -> None:
    """The end of a run as a terminal shows it."""
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(Text("$ hf-cl train nearest_class_mean --config demo --output_dir runs/means", style="bold"))
    console.print(Text("\n".join(line for line in said.splitlines() if "Report" not in line and "Next" not in line)))
    theme = rich.terminal_theme.MONOKAI
    drawn = console.export_svg(title="hf-cl", theme=theme, unique_id="terminal")
    (FOLDER / "terminal.svg").write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL))  # the reader's own fonts


def page(window: Any, run: Path) -> None:
    """The page of a run, asked about a test picture."""
    words = [sys.executable, "-m", "hf_cl.cli", "app", str(run), "--no-browser"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        window.get(server.stdout.readline().split()[0])
        for _ in range(200):
            offered = window.find_elements("css selector", "button.gallery-item, .gallery-item")
            if offered:
                break
            time.sleep(0.5)
        offered[0].click()
        for _ in range(200):
            if window.find_elements("css selector", "#now .best") and window.find_elements("css selector", "#then .best"):
                break
            time.sleep(0.5)
        time.sleep(1)
        window.save_screenshot(str(FOLDER / "app.png"))
        server.terminate()


def main() -> None:
    """All pictures, and the record."""
    with tempfile.TemporaryDirectory() as place:
        runs = [Path(place) / method for method in METHODS]
        said = [
            hf_cl_says("train", method, "--config", "demo", "--output_dir", str(run)) for method, run in zip(METHODS, runs, strict=True)
        ]
        terminal(said[0])
        hf_cl_says("compare", *map(str, runs), "--output", str(Path(place) / "compare.html"))
        window = browser()
        try:
            for name, file in (("report", runs[1] / "report.html"), ("compare", Path(place) / "compare.html")):
                window.get(file.as_uri())
                time.sleep(2)
                window.save_screenshot(str(FOLDER / f"{name}.png"))
            page(window, runs[1])
        finally:
            window.quit()
    RECORD.write_text(
        json.dumps({"version": hf_cl.__version__, "pictures": ["app.png", "compare.png", "report.png", "terminal.svg"]}) + "\n"
    )


if __name__ == "__main__":
    main()
