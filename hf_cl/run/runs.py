"""A run, from its settings to its end."""

from __future__ import annotations

from pathlib import Path

from hf_cl.adapters.tuner import check_fit
from hf_cl.own_parts import naming_what_is_missing
from hf_cl.results.results import Results
from hf_cl.run.first_checks import check_settings
from hf_cl.run.joint import joint_mark
from hf_cl.run.open import open_adapter, open_base, open_scenario
from hf_cl.run.pictures import warn_of_copies
from hf_cl.run.trainer import ContinualTrainer
from hf_cl.settings import RunSettings
from hf_cl.training.accelerator import RunAccelerator
from hf_cl.training.pixel_store import open_store


def train(settings: RunSettings, *, quiet: bool = False) -> ContinualTrainer:
    """Open data and base, train; the trainer holds the results. `quiet` prints nothing."""
    with naming_what_is_missing(Path(settings.output_dir)):
        check_settings(settings)
        method = settings.method()  # first: what it is made of is refused before any image is opened
        start = open_adapter(settings, method)
    backbone, processor, tokenizer = open_base(settings, method)
    check_fit(method.adapter, backbone)  # before any image is looked at, which may take minutes
    accelerator = RunAccelerator(settings)
    store = open_store(processor, settings, accelerator)  # before the data: what is decoded to look at them need not be decoded again
    scenario = open_scenario(settings, store, quiet=quiet, start=start)
    if accelerator.is_main_process and not quiet:
        warn_of_copies(scenario)
    made = {"accelerator": accelerator, "store": store, "start": start}
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, quiet=quiet, tokenizer=tokenizer, **made)
    trainer.fit()
    return trainer


def run(settings: RunSettings) -> Results:
    """A whole run: data, base, method, training, report and card; with `push_to_hub`, on the Hub.

    Raises what `open_scenario`, `open_base`, training and `push_to_hub` raise.
    """
    trainer = train(settings)
    return trainer.finish(joint_mark(settings, trainer.scenario) if "joint" in settings.marks else None)
