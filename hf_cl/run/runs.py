"""A run, from its settings to its end."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from hf_cl.contracts import ImageDataset, Scenario
from hf_cl.results.display import display_name
from hf_cl.results.picture_record import Part, PictureRecord, write_pictures
from hf_cl.results.results import Results
from hf_cl.run.open import open_base, open_scenario
from hf_cl.run.trainer import ContinualTrainer
from hf_cl.scenarios import ImageSet, SessionStream, content_hashes
from hf_cl.settings import RunSettings


def train(settings: RunSettings, *, quiet: bool = False) -> ContinualTrainer:
    """Open data and base, train; the trainer holds the results. `quiet` prints nothing."""
    method = settings.method()  # first: what it is made of is refused before any image is opened
    scenario = open_scenario(settings)
    backbone, processor, tokenizer = open_base(settings, method)
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, quiet=quiet, tokenizer=tokenizer)
    if trainer.accelerator.is_main_process and not quiet:
        Console(stderr=True).print(Text(overview(scenario, trainer.accelerator.num_processes, trainer.accelerator.device)), soft_wrap=True)
    if trainer.accelerator.is_main_process:
        trainer.folder.mkdir(parents=True, exist_ok=True)
        write_pictures(trainer.folder, pictures_of(scenario))
    trainer.fit()
    return trainer


def pictures_of(scenario: Scenario) -> Iterator[PictureRecord]:
    """What a run records of its pictures; of data sets of one's own, whose pictures have no stored bytes, nothing."""
    validation = scenario.validation if isinstance(scenario, SessionStream) else ()
    for session in scenario:
        held = validation[session.id] if validation else ()
        own = f"session-{session.id}"
        parts: dict[Part, list[ImageDataset]] = {
            "train": [session.train],
            "test": [test.data for test in session.tests if test.name == own],
            "validation": [test.data for test in held if test.name == own],
        }
        for part, images in ((part, images) for part, sets in parts.items() for images in sets):
            if isinstance(images, ImageSet):
                for position, content in enumerate(content_hashes(images)):
                    name = session.class_names[int(images.labels[position])]
                    yield PictureRecord(content, images.describe(position), name, part, session.id)


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
