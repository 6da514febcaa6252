"""The average of several runs, measured session by session as if it were a run of its own.

Shapes: B batch, C classes, S image side.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor, nn

from hf_cl.backbones import TextHead
from hf_cl.contracts import Head, Outputs, Scenario, Session
from hf_cl.errors import refuse_unasked
from hf_cl.hub.card import ModelCardInput, is_hub_id
from hf_cl.hub.classifier import Opener, read_config
from hf_cl.hub.ensemble import Average, Ensemble, average_of, disagreement
from hf_cl.hub.mean_adapter import write_mean
from hf_cl.hub.published import PLOTS, write_run_card
from hf_cl.own_parts import import_parts
from hf_cl.results.atomic_write import write_atomically
from hf_cl.results.examples import FEW, MANY
from hf_cl.results.history import FILE, History
from hf_cl.results.members import adapter_of, check_members, disagreement_sentence
from hf_cl.results.report import write_report
from hf_cl.results.results import Memory, MethodRecord, ParameterCounts, Results
from hf_cl.results.saved_run import Run, read_run
from hf_cl.run.open import open_processor, open_scenario
from hf_cl.run.parse import settings_of
from hf_cl.settings import RunSettings
from hf_cl.training.accelerator import RunAccelerator
from hf_cl.training.environment import environment
from hf_cl.training.evaluation import evaluate_candidates, evaluate_session
from hf_cl.training.image_stream import ImageStream
from hf_cl.training.needs import has_own_candidates
from hf_cl.training.peak_memory import memory_kind, take_peak_bytes
from hf_cl.training.pixel_store import open_store
from hf_cl.training.session_results import protocol_record

METHOD = "ensemble"
_NO_ADAPTER = "Every member costs a forward, and there is no adapter to push. `hf-cl ensemble ... --distill` trains one from them."
TITLES = {"probability": "ensemble of {} runs", "log": "ensemble of {} runs, geometric", "delta": "mean LoRA of {} runs"}


@dataclass(frozen=True)
class Members:
    """Runs that go together, and the data they were tested on."""

    runs: tuple[Run, ...]
    settings: RunSettings
    """Of the first, for what data, backbone and evaluation need; its output folder is the ensemble's."""

    @property
    def names(self) -> list[str]:
        """Of the run folders, as reports call them."""
        names = [run.folder.resolve().name for run in self.runs]
        return names if len(set(names)) == len(names) else [str(run.folder) for run in self.runs]

    @property
    def finals(self) -> dict[str, float]:
        """Their own accuracies at the end, by what reports call them."""
        found = {
            f"{name} ({run.method})": run.results.numbers.get("final_accuracy") for name, run in zip(self.names, self.runs, strict=True)
        }
        return {name: value for name, value in found.items() if value is not None}


def open_members(folders: Sequence[str | Path], output_dir: str | Path, *, resume: str | None = None, cpu: bool = False) -> Members:
    """Read the runs and refuse what does not go together.

    Args:
        folders: of the runs.
        output_dir: the folder of what is made of them.
        resume: "auto" where a distillation may go on.
        cpu: stay on the CPU, whatever the first run did.

    Raises ValueError with all that is wrong with them, and for an output folder that holds a run.
    """
    runs = tuple(read_run(folder) for folder in folders)
    check_members(runs)
    import_parts([name for run in runs for name in run.settings.get("imports", [])])
    known = {field.name for field in fields(RunSettings)}
    values = {key: value for key, value in runs[0].settings.items() if key in known}
    values |= {"output_dir": str(output_dir), "resume": resume, "push_to_hub": None, "report_to": [], "probes": {}, "marks": []}
    values |= {"cpu": True} if cpu else {}
    settings = settings_of(RunSettings, values, dict.fromkeys(values, f"config.yaml of {runs[0].folder}"))
    refuse_unasked(Path(output_dir), resume)
    if any(run.folder.resolve() == Path(output_dir).resolve() for run in runs):
        raise ValueError(f"{output_dir} is one of the runs; choose another --output_dir.")
    return Members(runs, settings)


def evaluate_ensemble(members: Members, average: Average | Literal["delta"] = "probability") -> Results:
    """Measure the average after every session on the members' test images, each with its adapter of that session.

    Writes results.json, sessions.jsonl, config.yaml and report.html into the output folder, so that `hf-cl compare` sets it beside its
    members. The members' own final accuracies stand among the comparisons. No adapter is written: K members cost K forwards.

    "delta" is one adapter instead, whose LoRA is the mean of the members' changes cut to the first one's rank (`write_mean`): it is written
    for every session, with a card, and pushes like any other.

    Raises what `open_scenario` raises, and ValueError where the data are not those that the members were tested on, or the members have no
    mean.
    """
    settings, accelerator = members.settings, RunAccelerator(members.settings)
    store = open_store(open_processor(settings), settings, accelerator)
    scenario = open_scenario(settings, store)
    check_data(scenario, members.runs[0])
    with accelerator.current():
        folder = Path(settings.output_dir)
        notes: list[str] = []
        if accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            notes = [_write_means(folder, members)] if average == "delta" else [_NO_ADAPTER]
        accelerator.wait_for_everyone()
        images = ImageStream(store, settings, accelerator)
        opener = Opener(accelerator.device, shared=True)
        history = History(folder / FILE if accelerator.is_main_process else None)
        apart: list[dict[str, Any]] = []
        for session in scenario:
            runs = [folder] if average == "delta" else [run.folder for run in members.runs]
            judge = _Judge([opener.open(adapter_of(run, session.id)) for run in runs], "log" if average == "log" else "probability")
            _measure(judge, session, scenario, images, accelerator, members, history)
            apart.append({"session": session.id, **judge.apart(accelerator)})
        results = _results(members, scenario, history, accelerator, average)
        if average != "delta":
            results = replace(results, probes={"disagreement": {key: apart[-1][key] for key in ("nats", "images")} | {"sessions": apart}})
            notes.append(disagreement_sentence(results))
        if accelerator.is_main_process:
            _write(folder, results, members, average, notes)
    return results


def _write_means(folder: Path, members: Members) -> str:
    """The mean adapter of every session; a sentence on how much of the mean change its rank keeps."""
    (folder / "adapters").mkdir(exist_ok=True)
    kept: list[float] = []
    for session in members.runs[0].results.sessions:
        target = adapter_of(folder, session.id)
        shutil.rmtree(target, ignore_errors=True)
        kept += write_mean([adapter_of(run.folder, session.id) for run in members.runs], target).values()
    return f"The rank of one adapter keeps {sum(kept) / len(kept):.0%} of the members' mean change, {min(kept):.0%} in the worst layer."


def check_data(scenario: Scenario, run: Run) -> None:
    """Raise ValueError where the data on disk are not those that a run was tested on."""
    sessions = list(scenario)
    now = [[*session.new_class_names] for session in sessions]
    then = [session.new_class_names for session in run.results.sessions]
    if now != then:
        raise ValueError(
            f"{run.folder} learned {sum(map(len, then))} classes in {len(then)} sessions; the data have {sum(map(len, now))} in {len(now)} "
            "today, or others. Bring the data back as they were."
        )
    counts = [len(test.data) for test in sessions[-1].tests]
    if counts != run.results.test_counts:
        raise ValueError(
            f"{run.folder} was tested on {sum(run.results.test_counts)} images, and the data have {sum(counts)} test images today. "
            "Bring the data back as they were."
        )


class _Judge(nn.Module):
    """The ensemble as evaluation asks it: logits whose softmax is the average. It counts how far the members are apart."""

    def __init__(self, members: Sequence[Any], average: Average) -> None:
        super().__init__()
        self.ensemble, self.head = Ensemble(members, average), Head()
        self._sums = torch.zeros(3, device=members[0].device)  # nats, images that not all members call the same, images

    def outputs(self, pixel_values: Tensor) -> Outputs:  # [B, 3, S, S] -> [B, C]
        each = self.ensemble.each(pixel_values)  # [K, B, C]
        logits = average_of(each, self.ensemble.average)
        named = each.argmax(-1)  # [K, B]
        differ = (named != named[0]).any(0).float()  # [B]
        self._sums += torch.stack([disagreement(each).sum(), differ.sum(), torch.ones_like(differ).sum()])
        return Outputs(features=logits, logits=logits, embedding=logits)

    def apart(self, accelerator: Any) -> dict[str, float]:
        """`nats` by which members disagree in the mean, and the share of `images` that they do not all call the same."""
        nats, differ, images = accelerator.reduce(self._sums, reduction="sum").tolist()
        return {"nats": nats / images, "images": differ / images}

    def name_unseen(self, class_names: Sequence[str]) -> None:
        """Let classes compete that no session teaches, where the members read names."""
        for member in self.ensemble.members:
            if class_names and isinstance(member.classifier.head, TextHead):
                member.classifier.head.name_unseen(class_names)


def _measure(
    judge: Any, session: Session, scenario: Scenario, images: ImageStream, accelerator: Any, members: Members, history: History
) -> None:
    started, before = time.perf_counter(), [run.results.sessions[session.id] for run in members.runs]
    record: dict[str, Any] = {"id": session.id, "new_class_names": [*session.new_class_names]}
    record |= {"num_train": before[0].num_train, "num_test": len(session.tests[-1].data), "trained": before[0].trained}
    record["kept_images"] = max(one.kept_images for one in before)
    examples, counts = MANY if session.id + 1 == len(members.runs[0].results.sessions) else FEW, None
    if has_own_candidates(session):
        judge.name_unseen(scenario.class_names[len(session.class_names) :])
        tested = evaluate_candidates(judge, images, session, scenario.class_names, accelerator, examples)
        record["tests"] = {"test_accuracy": tested.accuracy, "test_counts": tested.counts}
        record["calibration"] = asdict(tested.calibration)
    else:
        sizes = [len(one.new_class_names) for one in members.runs[0].results.sessions[: session.id + 1]]
        counts, bins = evaluate_session(judge, images, session, sizes, accelerator, None, examples)
        record["calibration"] = asdict(bins)
    times = [run.results.times for run in members.runs]
    record["training_seconds"] = sum(one.training[session.id] for one in times if one is not None)
    record |= {"evaluation_seconds": time.perf_counter() - started, "peak_bytes": take_peak_bytes(accelerator.device)}
    history.add(record, counts)


def _results(members: Members, scenario: Scenario, history: History, accelerator: Any, average: str) -> Results:
    runs, settings = members.runs, members.settings
    return Results(
        protocol=protocol_record(scenario.protocol),
        seed=runs[0].results.seed,
        method=MethodRecord(name=METHOD, title=TITLES[average].format(len(runs))),
        **history.fields(),
        comparisons=members.finals,
        parameters=_parameters(runs),
        environment=environment(accelerator, settings.backbone, settings.backbone_revision),
        times=history.times,
        memory=Memory(memory_kind(accelerator.device), history.of_each("peak_bytes")),
    )


def _parameters(runs: Sequence[Run]) -> ParameterCounts | None:
    """One backbone and all members' adapters."""
    counts = [run.results.parameters for run in runs]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return None
    trainable = sum(count.trainable for count in known)
    return ParameterCounts(trainable=trainable, total=known[0].total - known[0].trainable + trainable)


def _write(folder: Path, results: Results, members: Members, average: str, notes: Sequence[str]) -> None:
    """config.yaml says the data and how they were evaluated, and the members by name; results, report, and a card for an adapter."""
    settings = {"members": members.names, "average": average} | asdict(members.settings)
    write_atomically(folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    results.save(folder / "results.json")
    title = results.method.title if results.method else METHOD
    write_report(folder, results, settings, method=title, notes=["The comparisons are the members' own accuracies at the end.", *notes])
    if average == "delta":
        write_run_card(folder, _card(folder, results, settings, members))


def _card(folder: Path, results: Results, settings: Mapping[str, Any], members: Members) -> ModelCardInput:
    last = adapter_of(folder, results.sessions[-1].id)
    config = read_config(last, last)
    dataset = str(settings["dataset"])
    return ModelCardInput(
        results=results,
        settings=settings,
        base_model=members.settings.backbone,
        adapter=str(last),
        method=results.method.title if results.method else METHOD,
        adapter_type=config.peft_type.value,
        dataset_id=dataset if is_hub_id(dataset) else None,
        two_towers=config.has_text_head,
        plots=PLOTS if results.accuracy_matrix is not None else (),
    )
