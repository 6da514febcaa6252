"""A run, from its settings to its end."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from hf_cl.contracts import Scenario
from hf_cl.results.display import display_name
from hf_cl.results.results import Results
from hf_cl.run.first_checks import check_settings
from hf_cl.run.open import open_base, open_processor, open_scenario
from hf_cl.run.trainer import ContinualTrainer
from hf_cl.settings import RunSettings
from hf_cl.training.pixel_store import open_store


def train(settings: RunSettings, *, quiet: bool = False) -> ContinualTrainer:
    """Open data and base, train; the trainer holds the results. `quiet` prints nothing."""
    check_settings(settings)
    method = settings.method()  # first: what it is made of is refused before any image is opened
    store = open_store(open_processor(settings), settings)  # before the data: what is decoded to look at them need not be decoded again
    scenario = open_scenario(settings, store, quiet=quiet)
    backbone, processor, tokenizer = open_base(settings, method)
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, quiet=quiet, tokenizer=tokenizer, store=store)
    if trainer.accelerator.is_main_process and not quiet:
        Console(stderr=True).print(Text(overview(scenario, trainer.accelerator.num_processes, trainer.accelerator.device)), soft_wrap=True)
    trainer.fit()
    return trainer


def overview(scenario: Scenario, num_processes: int, device: object) -> str:
    """What a run is about to do, in a line: classes by session, images, processes."""
    sessions = list(scenario)
    groups = " | ".join(", ".join(session.new_class_names) for session in sessions)
    images = (
        f"{sum(len(session.train) for session in sessions)} training and {sum(len(test.data) for test in sessions[-1].tests)} test images"
    )
    stream = f"{len(sessions)} {'session' if len(sessions) == 1 else 'sessions'} ({display_name(groups, 300)})"
    where = f"{num_processes} {'process' if num_processes == 1 else 'processes'} on {device}"
    name, classes = display_name(str(scenario.protocol["dataset"])), len(sessions[-1].class_names)
    return f"{name}: {classes} classes, {images}, {stream}; {where}."


def run(settings: RunSettings) -> Results:
    """A whole run: data, base, method, training, report and card; with `push_to_hub`, on the Hub.

    Raises what `open_scenario`, `open_base`, training and `push_to_hub` raise.
    """
    return train(settings).finish()
