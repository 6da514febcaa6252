"""The trainer people use: the loop, and what is made of a trained run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from hf_cl.backbones import TextHead
from hf_cl.hub.card import ModelCardInput, is_hub_id
from hf_cl.hub.published import PLOTS, write_run_card
from hf_cl.hub.push import push_to_hub
from hf_cl.results.picture_record import known_to, write_pictures
from hf_cl.results.results import Results
from hf_cl.results.table import FittedTable, summary_table
from hf_cl.run.overview import overview
from hf_cl.run.pictures import pictures_of
from hf_cl.training import RunSettings, SessionLoop


class ContinualTrainer(SessionLoop):
    """Trains one adapter over the sessions of a scenario (`fit`), describes it (`finish`) and publishes it (`push_to_hub`).

    Its arguments are those of `hf_cl.training.SessionLoop`:

    Args:
        backbone: the base, from `hf_cl.load_backbone` or any `...ForImageClassification` model; the adapter is injected into it.
        processor: its Hugging Face image processor; evaluation uses it and it is saved beside every adapter.
        method: what is trained, and how (`hf_cl.methods`, or a composition of your own).
        scenario: the sessions, in order.
        settings: batch sizes, precision, folders.
        probes: observers.
        quiet: print no table and no bar; files are written all the same.
        tokenizer: the base's own, for text heads; saved beside every adapter.
        accelerator, store: made before, where pictures were decoded before training.
        start: an adapter to go on from (`hf_cl.training.start.open_start`).
    """

    _pictures_recorded = False

    def fit(self) -> Results:
        """As `SessionLoop.fit`, after a line that says what the run understood: classes, images, processes."""
        if self.accelerator.is_main_process and not self.quiet:
            said = overview(self.scenario, self.accelerator.num_processes, self.accelerator.device.type)
            Console(stderr=True).print(Text(said), soft_wrap=True)
        return super().fit()

    def save_adapter(self, folder: Path) -> None:
        """The adapter's files, and the run's record of its pictures where there is none yet."""
        super().save_adapter(folder)
        self._record_pictures()

    def checkpoint(self) -> None:
        """As `SessionLoop.checkpoint`; no checkpoint stays without the run's record of its pictures, and none waits for it."""
        try:
            super().checkpoint()
        finally:
            self._record_pictures()

    def _record_pictures(self) -> None:
        if self.accelerator.is_main_process and not self._pictures_recorded:
            self._pictures_recorded = True
            if self.start is None:
                write_pictures(self.folder, pictures_of(self.scenario, trained_from=self.position.session))
                return
            here = list(pictures_of(self.scenario, trained_from=max(1, self.position.session)))
            present = {(picture.content, picture.part) for picture in here}
            inherited = [picture for picture in known_to(self.start.folder) if (picture.content, picture.part) not in present]
            write_pictures(self.folder, [*inherited, *here])

    def finish(self, comparisons: Mapping[str, float] | None = None) -> Results:
        """Write report and model card of a trained run and print its summary; with the setting `push_to_hub`, publish it.

        Args:
            comparisons: accuracies on all classes of other models, by name: drawn and listed beside the run's own.

        Raises what `push_to_hub` raises.
        """
        from hf_cl.results.report import write_report  # noqa: PLC0415 (matplotlib: the first step need not wait for it)

        settings = asdict(self.settings)
        results = self.results.results
        results = replace(results, comparisons=results.comparisons | dict(comparisons or {}))
        if self.accelerator.is_main_process:
            if comparisons or not (self.folder / "results.json").exists():  # else `fit` has written the same
                results.save(self.folder / "results.json")
            write_report(self.folder, results, settings, method=self.method.title)
            write_run_card(self.folder, self._card(results, settings))
        self.records.say(FittedTable(results))
        self.records.say(summary_table(results))
        files = f"Report {self.folder / 'report.html'}, card {self.folder / 'README.md'}, adapters in {self.folder / 'adapters'}"
        self.records.say(Text(files))
        self.records.say(Text(f"Next: hf-cl predict {self.folder} IMAGE..., hf-cl push {self.folder} OWNER/NAME"))
        if isinstance(self.settings, RunSettings) and self.settings.push_to_hub:
            self.push_to_hub(self.settings.push_to_hub, private=self.settings.private)
        return results

    def push_to_hub(self, repo_id: str, *, private: bool = False, base_model: str | None = None) -> None:
        """Publish the run, one revision per session (`revision="session-k"`), from the main process; see `hf_cl.push_to_hub`."""
        if self.accelerator.is_main_process:
            pushed = push_to_hub(self.folder, repo_id, private=private, base_model=base_model, say=self.records.say)
            self.records.say("\n".join([*pushed.remarks, f"Pushed to {pushed.url}"]))

    def _card(self, results: Results, settings: Mapping[str, Any]) -> ModelCardInput:
        dataset = str(settings.get("dataset", ""))  # settings of the loop alone, from Python, name no data set
        return ModelCardInput(
            results=results,
            settings=settings,
            base_model=self.settings.backbone,
            adapter=str(self.folder / "adapters" / f"session-{results.sessions[-1].id}"),
            method=self.method.title or self.method.name,
            adapter_type=self.method.adapter.peft_type.value,
            citation=self.method.citation,
            license=settings.get("license"),
            notes=[f"Settings were chosen by `hf-cl tune`: {settings['tuned_on']}"] if settings.get("tuned_on") else [],
            dataset_id=dataset if is_hub_id(dataset) else None,
            two_towers=isinstance(self.head, TextHead),
            plots=PLOTS if results.accuracy_matrix is not None else (),
        )
