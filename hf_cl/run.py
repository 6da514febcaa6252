"""What the recipes and the command line share: settings from YAML and flags, and a run from settings to report and card."""

from __future__ import annotations

import ast
import difflib
import inspect
import logging
import os
import reprlib
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError
from rich.text import Text
from torch import nn
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from hf_cl.backbones import TextHead, check_class_names, load_backbone, load_processor, load_tokenizer, load_two_towers
from hf_cl.contracts import Method, Scenario
from hf_cl.hub.access import check_push
from hf_cl.hub.card import ModelCardInput, is_hub_id
from hf_cl.hub.published import PLOTS, published_base, write_run_card
from hf_cl.hub.push import push_to_hub
from hf_cl.scenarios import SCENARIOS, ImageSource, open_images
from hf_cl.training import ContinualTrainer, RunSettings
from hf_cl.training.display import printable
from hf_cl.training.report import write_report
from hf_cl.training.results import Results
from hf_cl.training.results_table import summary_table
from hf_cl.training.secrets import without_secrets
from hf_cl.training.signals import TrainingInterruptedError

CONFIGS = Path(__file__).parent / "configs"


SettingsT = TypeVar("SettingsT", bound=RunSettings)


def parse_settings(settings_class: type[SettingsT], method: str, arguments: Sequence[str]) -> SettingsT:
    """Settings from `--config NAME_OR_FILE` and overriding `--key value` flags; dashes in keys are accepted.

    `NAME` is a packaged config of the method (`hf_cl/configs/<method>/NAME.yaml`).

    Raises ValueError for an unknown key (with the nearest known one), a value of the wrong type, or a file that is not there.
    """
    flags = _parse_flags(arguments)
    config = flags.pop("config", None)
    if config is None and any(argument.split("=")[0] == "--config" for argument in arguments):
        raise ValueError("--config needs the name of a config or a file.")
    values = read_config(method, str(config)) if config is not None else {}
    where = dict.fromkeys(values, f"config {config}") | {key: f"--{key}" for key in flags}
    values |= flags
    known = {f.name: str(f.type) for f in fields(settings_class)}
    for key in values:
        if key not in known:
            raise ValueError(f"Unknown setting {_brief(key)} ({where[key][:200]}).{nearest(key, known)}")
        if known[key].startswith("list[str]") and isinstance(values[key], str):
            values[key] = [part.strip() for part in values[key].split(",")]  # --report_to tensorboard,wandb
    try:
        return TypeAdapter(settings_class).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise ValueError(first["msg"].removeprefix("Value error, ")) from error
        key = str(first["loc"][0])
        raise ValueError(f"{where.get(key, key)}: {first['msg']}, got {_brief(first['input'])}.") from error


def _brief(value: Any) -> str:
    shorter = reprlib.Repr()  # YAML's anchors can make a short file a huge value
    shorter.maxlevel, shorter.maxstring, shorter.maxother = 3, 200, 200
    return shorter.repr(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """ " Did you mean ...?" for a mistyped name, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _parse_flags(arguments: Sequence[str]) -> dict[str, Any]:
    flags: dict[str, Any] = {}
    position = 0
    while position < len(arguments):
        flag = arguments[position]
        if not flag.startswith("--"):
            raise ValueError(f"Expected a flag like --key value, got {_brief(flag)}.")
        key, equals, text = flag[2:].partition("=")
        has_value = position + 1 < len(arguments) and not arguments[position + 1].startswith("--")
        if not equals and has_value:
            position += 1
            text = arguments[position]
        elif not equals:
            text = "true"
        flags[key.replace("-", "_")] = _yaml_value(text, flag)
        position += 1
    return flags


_NO_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError)
"""What PyYAML raises for text that is none: its constructors of dates, booleans and numbers do not wrap what goes wrong in them."""


class _UniqueKeys(yaml.SafeLoader):
    """Safe YAML in which a key stands once: of two, PyYAML would take the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = [key for key, count in keys.items() if count > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"the key {_brief(twice[0])} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _yaml_value(text: str, flag: str) -> Any:
    try:
        return _number(_UniqueKeys(text).get_single_data())
    except _NO_YAML as error:
        raise ValueError(f"{_brief(flag)}: {_brief(text)} is no YAML value.") from error


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as a string; people mean the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def config_names(method: str) -> list[str]:
    """Names of a method's packaged configs."""
    return sorted(path.stem for path in (CONFIGS / method).glob("*.yaml"))


def read_config(method: str, name: str) -> dict[str, Any]:
    """Values of a YAML file, or of the method's packaged config of that name.

    Raises ValueError where there is none, or where the file is no mapping.
    """
    packaged = config_names(method)
    path = CONFIGS / method / f"{name}.yaml" if name in packaged else Path(name)
    shown = f"--config {name[:200]}"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"{shown}: no such file, and {method} has no config of that name; it has {', '.join(packaged) or 'none'}."
        ) from error
    except ValueError as error:
        raise ValueError(f"{shown} is no text file in UTF-8.") from error
    try:
        values = _UniqueKeys(text).get_single_data()
    except _NO_YAML as error:
        raise ValueError(f"{shown}: not valid YAML: {(str(error) or type(error).__name__).splitlines()[0]}.") from error
    if not isinstance(values, Mapping):
        raise ValueError(f"{shown}: expected keys and values, found {type(values).__name__}.")
    return {str(key): _number(value) for key, value in values.items()}


def launch(main: Callable[[SettingsT], Any], settings_class: type[SettingsT], method: str, arguments: Sequence[str] | None = None) -> int:
    """Entry point of a recipe: parse, run, and turn a user's mistake into two lines instead of a traceback.

    `HF_CL_DEBUG=1` shows the traceback. Returns the exit status: 0, 2 for a mistake or a fault of the machine (no space, no permission),
    128 + n where signal n stopped the training.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    quiet_libraries()
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(describe(settings_class, method) + "\n")
        return 0
    try:
        main(parse_settings(settings_class, method, arguments))
    except (ValueError, RuntimeError, OSError) as error:
        if os.environ.get("HF_CL_DEBUG"):
            raise
        sys.stderr.write(f"hf_cl: {printable(without_secrets(str(error)))}\n")
        return error.exit_status if isinstance(error, TrainingInterruptedError) else 2
    return 0


def quiet_libraries() -> None:
    """No progress bars and no notes to developers from the libraries below, on a command line that people read."""
    disable_progress_bar()
    set_verbosity_error()
    warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated", category=FutureWarning)


def describe(settings_class: type[RunSettings], method: str) -> str:
    """Help text of a recipe: every setting with its default and meaning, and the packaged configs."""
    lines = [f"usage: --config {{{','.join(config_names(method))}}}|FILE [--key value ...]", "", "settings (YAML keys and flags alike):"]
    for setting, text in setting_docs(settings_class).items():
        lines.append(f"  --{setting.name:<28} {text}  [{_default(setting)}]")
    return "\n".join(lines)


def setting_docs(settings_class: type[RunSettings]) -> dict[Field[Any], str]:
    """Every setting with the sentence that stands under it in the source."""
    docs: dict[str, str] = {}
    for cls in reversed(settings_class.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # pyright: ignore[reportAttributeAccessIssue]
        for statement, following in pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                docs[statement.target.id] = " ".join(str(following.value.value).split())  # pyright: ignore[reportAttributeAccessIssue]
    return {setting: docs.get(setting.name, "") for setting in fields(settings_class)}


def _default(setting: Field[Any]) -> Any:
    return setting.default if setting.default_factory is MISSING else setting.default_factory()


def open_scenario(settings: RunSettings) -> Scenario:
    """The data, checked, as sessions of the protocol the settings name. A protocol's arguments are the settings of the same names.

    Raises ValueError for an unknown protocol, and for settings that it needs or does not know; DataError for faulty data.
    """
    if settings.protocol not in SCENARIOS:
        raise ValueError(f"Unknown protocol {settings.protocol!r}.{nearest(settings.protocol, SCENARIOS)} Known: {', '.join(SCENARIOS)}.")
    protocol = SCENARIOS[settings.protocol]
    arguments = {name: getattr(settings, name) for name in inspect.signature(protocol).parameters if name != "source"}
    unused = [name for name in ("shots", "index_list", "targets") if getattr(settings, name) and name not in arguments]
    if unused:
        raise ValueError(f"Protocol {settings.protocol} has no {unused[0]!r}; leave it out, or choose another protocol.")
    if "shots" in arguments and settings.shots is None:
        raise ValueError(f"Protocol {settings.protocol} needs shots, the number of training images per class.")
    if "targets" in arguments:
        arguments["targets"] = [_open_source(settings, target) for target in settings.targets]
    return protocol(_open_source(settings, settings.dataset), **arguments)


def _open_source(settings: RunSettings, dataset: str) -> ImageSource:
    return open_images(
        dataset,
        image_column=settings.image_column,
        label_column=settings.label_column,
        test_split=settings.test_split,
        skip_bad_images=settings.skip_bad_images,
    )


def open_base(settings: RunSettings, method: Method, scenario: Scenario) -> tuple[nn.Module, Any, Any]:
    """The base that the method's head needs: (model, image processor, tokenizer).

    Under a text head the model has both towers, and its texts of all of the scenario's classes are looked at; under any other head it is
    one tower without a classifier, and the tokenizer is None.

    Raises ValueError for a base that is not there, and for class names that a text head cannot use.
    """
    name, revision = settings.backbone, settings.backbone_revision
    tokenizer = None
    if (method.adapter.head or {}).get("type") == "text":
        model, tokenizer = load_two_towers(name, revision=revision), load_tokenizer(name, revision=revision)
        check_class_names(model, method.adapter, tokenizer, scenario.class_names)
    else:
        model = load_backbone(name, revision=revision)
    processor = load_processor(name, revision=revision)
    if not settings.normalize:
        processor.do_normalize = False  # saved with the adapter, so whoever loads it feeds the same pixels
    return model, processor, tokenizer


def train(settings: RunSettings, *, quiet: bool = False) -> ContinualTrainer:
    """Open data and base, train; the trainer holds the results. `quiet` prints nothing."""
    scenario, method = open_scenario(settings), settings.method()
    backbone, processor, tokenizer = open_base(settings, method, scenario)
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, quiet=quiet, tokenizer=tokenizer)
    trainer.fit()
    return trainer


def run(settings: RunSettings) -> Results:
    """A whole run: data, base, method, training, report and card; with `push_to_hub`, on the Hub.

    Raises, besides what training raises, what `check_push` and `push_to_hub` do: the former before anything is opened.
    """
    if settings.private and not settings.push_to_hub:
        raise ValueError("private is about the repository of push_to_hub, and none is named.")
    if settings.push_to_hub and os.environ.get("RANK", "0") == "0":  # one process asks the Hub
        check_push(settings.push_to_hub, private=settings.private)
        published_base(settings.backbone)
    trainer = train(settings)
    results = finish(trainer)
    if settings.push_to_hub and trainer.accelerator.is_main_process:
        pushed = push_to_hub(trainer, settings.push_to_hub, private=settings.private, say=trainer.records.say)
        trainer.records.say("\n".join([*pushed.remarks, f"Pushed to {pushed.url}"]))
    return results


def finish(trainer: ContinualTrainer, comparisons: Mapping[str, float] | None = None) -> Results:
    """Write report and model card of a trained run and print its summary.

    Args:
        trainer: after `fit`.
        comparisons: accuracies on all classes of other models, by name: drawn and listed beside the run's own.
    """
    settings, folder = asdict(trainer.settings), trainer.folder
    results = replace(trainer.results.results, comparisons=dict(comparisons or {}))
    if trainer.accelerator.is_main_process:
        results.save(folder / "results.json")
        write_report(folder, results, settings, method=trainer.method.title)
        write_run_card(folder, _card(trainer, results, settings))
    trainer.records.say(summary_table(results))
    trainer.records.say(Text(f"Report {folder / 'report.html'}, card {folder / 'README.md'}, adapters in {folder / 'adapters'}"))
    return results


def _card(trainer: ContinualTrainer, results: Results, settings: Mapping[str, Any]) -> ModelCardInput:
    last = trainer.folder / "adapters" / f"session-{results.sessions[-1].id}"
    dataset = str(settings.get("dataset", ""))  # settings of the loop alone, from Python, name no data set
    return ModelCardInput(
        results=results,
        settings=settings,
        base_model=trainer.settings.backbone,
        adapter=str(last),
        method=trainer.method.title or trainer.method.name,
        adapter_type=trainer.method.adapter.peft_type.value,
        citation=trainer.method.citation,
        license=settings.get("license"),
        dataset_id=dataset if is_hub_id(dataset) else None,
        two_towers=isinstance(trainer.head, TextHead),
        plots=PLOTS if results.accuracy_matrix is not None else (),
    )
