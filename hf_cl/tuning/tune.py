"""`hf-cl tune` as a function: what was asked for, the search, the outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hf_cl.hints import nearest, refuse
from hf_cl.methods import METHODS
from hf_cl.own_parts import import_parts
from hf_cl.run.first_checks import check_settings
from hf_cl.run.open import open_scenario
from hf_cl.run.own_pictures import with_config
from hf_cl.run.parse import parse_flags, parse_settings
from hf_cl.scenarios import ImageSet, check_pictures
from hf_cl.settings import RunSettings
from hf_cl.tuning.candidates import OBJECTIVES, Runs
from hf_cl.tuning.choice import Candidate, Plan, choose
from hf_cl.tuning.engines import ENGINES
from hf_cl.tuning.outcome import Outcome
from hf_cl.tuning.search import Search, optuna
from hf_cl.tuning.space import Space, space_of

ENGINE_NAMES = ("search",)
WHERE = ("local", "ray")
Say = Callable[[list[Candidate]], None]


@dataclass
class TuneOptions:
    """What is `hf-cl tune`'s own on its command line."""

    over: list[str] = field(default_factory=list)
    budget: float = 16.0
    sessions: int = 2
    objective: str = OBJECTIVES[0]
    validation_fraction: float = 0.2
    seeds: int = 1
    search_seed: int = 0
    engine: str = ENGINE_NAMES[0]
    where: str = WHERE[0]
    jobs: int = 1
    option: list[str] = field(default_factory=list)
    output_dir: str = "runs/tune"


@dataclass(frozen=True)
class Asked:
    """A search that can begin: everything that could be refused has been looked at."""

    folder: Path
    method: str
    settings: RunSettings
    options: TuneOptions
    space: Space
    runs: Runs
    plan: Plan

    def announcement(self) -> str:
        """What will be done, before it is."""
        names = ", ".join(one.name for one in self.space.ranges)
        rung = f", each shortened to {100 * self.plan.short:.0f} % of the epochs first" if self.plan.short else ""
        return (
            f"{self.method}: {names}; at most {self.plan.budget:g} runs of {self.runs.sessions} sessions{rung}, measured on "
            f"{100 * self.runs.validation_fraction:g} % of their training images. No test image is looked at."
        )


def asked_for(arguments: Sequence[str]) -> Asked:
    """From the command line: METHOD, the options of `TuneOptions`, and the base's flags as `hf-cl train` takes them.

    Raises ValueError with all that is wrong.
    """
    if not arguments or arguments[0].startswith("--"):
        raise ValueError(f"Name the method first: hf-cl tune lora --config ... Known: {', '.join(sorted(METHODS))}.")
    method, *rest = arguments
    options, flags = _apart(rest)
    import_parts(parse_flags(flags).get("imports", []))
    if method not in METHODS:
        raise ValueError(f"Unknown method {method!r}.{nearest(method, METHODS)} Known: {', '.join(sorted(METHODS))}.")
    flags = with_config(method, flags, lambda said: None)
    settings = parse_settings(METHODS[method], method, flags)
    refuse(_faults(options, settings))
    folder = Path(options.output_dir)
    space = space_of(settings, options.over)
    own: Any = {"sessions": options.sessions, "validation_fraction": options.validation_fraction, "objective": options.objective}
    own |= {"seeds": options.seeds, "engine": options.where, "jobs": options.jobs}
    own |= {"options": tuple((key, yaml.safe_load(text)) for key, _, text in (pair.partition("=") for pair in options.option))}
    runs = Runs(folder, method, settings, tuple(flags), **own)
    asked = Asked(folder, method, settings, options, space, runs, Plan(options.budget, options.seeds, runs.share()))
    _check_ends(asked)
    optuna()
    return asked


def search_for(asked: Asked, say: Say = lambda candidates: None) -> Outcome | None:
    """Search and write the outcome; None where other processes still run what is left.

    Raises DataError for pictures that cannot be read; CandidateFailedError where a run fails.
    """
    search = Search(asked.folder, asked.space, asked.plan, seed=asked.options.search_seed, asked=_identity(asked))
    if "base" not in search.study.user_attrs:
        check_what_is_used(asked)
    candidates = search.run(asked.runs.measure, at_once=asked.options.jobs, say=say)
    if search.waits_for():
        return None
    choice = choose(candidates, asked.space)
    numbers: Any = (asked.options.objective, asked.options.sessions, asked.options.validation_fraction)
    outcome = Outcome(asked.method, asked.settings, asked.space, asked.plan, candidates, choice, *numbers)
    outcome.write(asked.folder)
    return outcome


def check_what_is_used(asked: Asked) -> None:
    """Decode the pictures that candidates will be trained and measured on, once, and no other: candidates look at none beforehand."""
    settings = parse_settings(METHODS[asked.method], asked.method, asked.runs.flags_for(asked.space.base))
    bad = []
    for session in open_scenario(settings):
        for images in (session.train, *(test.data for test in session.tests if test.name == f"session-{session.id}")):
            if isinstance(images, ImageSet):
                bad += [f"{one.where} ({one.cause})" for one in check_pictures(images, look="changed")]
    if bad:
        raise ValueError(f"{len(bad)} pictures of the first {asked.runs.sessions} sessions cannot be read: {', '.join(bad[:10])}.")


def _identity(asked: Asked) -> dict[str, Any]:
    """What a search must not change while it goes on."""
    flags = [flag for flag in asked.runs.flags if "feature_cache" not in flag]
    own = {"sessions": asked.options.sessions, "validation_fraction": asked.options.validation_fraction}
    return {"method": asked.method, "flags": flags, "objective": asked.options.objective, **own}


def _apart(arguments: Sequence[str]) -> tuple[TuneOptions, list[str]]:
    """The options of the search, and the flags of the base. Raises ValueError for a value that is none."""
    found, flags, position = TuneOptions(), [], 0
    while position < len(arguments):
        flag, equals, text = arguments[position].partition("=")
        name, end = flag.removeprefix("--").replace("-", "_"), position + 1
        while not equals and end < len(arguments) and not arguments[end].startswith("--"):
            end += 1
        values = [text] if equals else list(arguments[position + 1 : end])
        if not flag.startswith("--") or name not in vars(found):
            flags += arguments[position:end]
        elif isinstance(before := getattr(found, name), list):
            if not any(values):
                raise ValueError(f"{flag} needs a value.")
            before.extend(values)
        else:
            setattr(found, name, _value(flag, values, type(before)))
        position = end
    return found, flags


def _value(flag: str, values: list[str], kind: type) -> Any:
    words = {int: "a whole number", float: "a number", str: "one value"}
    try:
        (text,) = values
        return kind(text)
    except ValueError as error:
        raise ValueError(f"{flag} takes {words[kind]}, got {' '.join(values) or 'nothing'}.") from error


def _faults(options: TuneOptions, settings: RunSettings) -> list[str]:
    faults = []
    for name, value, known in (
        ("objective", options.objective, OBJECTIVES),
        ("engine", options.engine, ENGINE_NAMES),
        ("where", options.where, [name for name in ENGINES if name in WHERE]),
    ):
        if value not in known:
            faults.append(f"--{name} is one of {', '.join(known)}, got {value!r}.{nearest(value, known)}")
    if options.sessions < 1 or options.seeds < 1 or options.jobs < 1:
        faults.append("--sessions, --seeds and --jobs are at least 1.")
    if not 0 < options.validation_fraction < 1:
        faults.append(f"--validation_fraction lies between 0 and 1, got {options.validation_fraction}.")
    if settings.start_from is not None or settings.resume is not None:
        faults.append("start_from and resume belong to one run; leave them out of the base of a search.")
    return faults


def _check_ends(asked: Asked) -> None:
    """Build the base and every end of every range, so that a value which a setting refuses is said before anything runs."""
    check_settings(
        parse_settings(METHODS[asked.method], asked.method, [*asked.runs.flags_for({}), f"--output_dir={asked.folder / 'base'}"])
    )
    faults: dict[str, None] = {}
    for one in asked.space.ranges:
        for end in one.ends():
            try:
                parse_settings(METHODS[asked.method], asked.method, asked.runs.flags_for({one.name: end})).method()
            except ValueError as error:
                faults[f"--over {one.name}, at {end}: {error}"] = None
    refuse([*faults])
