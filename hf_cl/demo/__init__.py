"""`hf-cl demo`: a stream of real images, one small adapter, four honest marks beside it, and the adapter's reload in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from hf_cl.contracts import Scenario
from hf_cl.methods import OvorSettings
from hf_cl.results.display import percent
from hf_cl.run import parse_settings, quiet_libraries, train
from hf_cl.settings import RunSettings
from hf_cl.training.marks import MARKS

NUM_PREDICTED = 6


def run_demo(output_dir: Path) -> None:
    """Train on scikit-learn's digits in five sessions, measure the marks, predict some images with the reloaded adapter."""
    quiet_libraries()
    console = Console()
    console.print("[bold]Five sessions of two digits each on a small ViT: OnePrompt in the first, a Gaussian head. No network.[/bold]")
    settings = parse_settings(OvorSettings, "ovor", ["--config", "demo", "--output_dir", str(output_dir), "--resume", "auto"])
    trainer = train(settings)
    console.print("[bold]Four marks to judge it by[/bold] (the same images, the same backbone):")
    marks = dict(trainer.results.results.comparisons)  # heads on the untouched backbone, by the config's `marks`
    for name, accuracy in marks.items():
        console.print(f"  {percent(accuracy)} %  {name}")
    for folder, (name, mark) in _marks(settings).items():
        marks[name] = _final_accuracy(mark, output_dir / "marks" / folder)
        console.print(f"  {percent(marks[name])} %  {name}")
    console.print("  (The published head compares the classes of a session with each other alone: docs/faq.md, why old classes are gone.)")
    images, final = sum(trainer.results.results.test_counts), trainer.results.results.metrics["final_accuracy"]
    assert isinstance(final, float)
    adds = final - marks[MARKS["gaussian"][0]]
    console.print(
        f"  OnePrompt adds {100 * adds:+.2f} points to the Gaussian head here, {round(images * adds):+d} of {images} images; "
        "`hf-cl train frozen` is the head alone."
    )
    trainer.finish(comparisons=marks)
    samples = _sample_images(trainer.scenario, output_dir / "samples")
    console.print("[bold]The adapter of the last session, loaded in a fresh process:[/bold]")
    subprocess.run([sys.executable, "-m", "hf_cl.cli", "predict", str(output_dir), *samples], check=True)


def _marks(settings: OvorSettings) -> dict[str, tuple[str, RunSettings]]:
    """Folder -> name and settings of the marks that train."""
    settings = replace(settings, marks=[])
    return {
        "official": ("OVOR as published (linear head)", replace(settings, head={"type": "linear"}, vor_epochs=1, adapt_sessions="all")),
        "joint": ("all ten digits in one session", replace(settings, num_base_classes=10)),
    }


def _final_accuracy(settings: RunSettings, folder: Path) -> float:
    settings = replace(settings, output_dir=str(folder))
    return float(train(settings, quiet=True).results.results.metrics["final_accuracy"])  # pyright: ignore[reportArgumentType]


def _sample_images(scenario: Scenario, folder: Path) -> list[str]:
    """A few test images as files."""
    folder.mkdir(exist_ok=True)
    *_, last = scenario
    paths = []
    for number in range(NUM_PREDICTED):
        test = last.tests[number % len(last.tests)]
        item = test.data[number]
        paths.append(str(folder / f"a_{last.class_names[item['label']]}.{number}.png"))
        item["image"].save(paths[-1])
    return paths
