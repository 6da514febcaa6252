"""The search itself: Optuna asks and prunes, its journal on disk is shared by all processes that work on one study.

A candidate runs shortened first, and in full where Optuna's successive-halving pruner (Li et al., "A System for Massively Parallel
Hyperparameter Tuning", MLSys 2020) lets it go on. The first points are Sobol's, the later ones those of the tree-structured Parzen
estimator (Bergstra et al., NeurIPS 2011).
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from hf_cl.tuning.choice import Candidate, Measured, Plan
from hf_cl.tuning.space import Range, Space, Values

logger = logging.getLogger(__name__)

Length = Literal["short", "full"]
Measure = Callable[[Sequence[Values], Length], list[Measured]]
"""Runs points, several at a time where it can, and says what came out of each."""
Say = Callable[[list[Candidate]], None]
SOBOL = 8
"""Points that fill the box evenly before the estimator takes over; a power of two."""
NEEDED = "hf-cl tune needs Optuna: pip install 'hf-cl[tune]'."


def optuna() -> Any:
    """The library. Raises ValueError where it is not installed."""
    try:
        import optuna  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as error:
        raise ValueError(NEEDED) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Search:
    """One study in a folder.

    Args:
        folder: of the study; several processes may work in it at once, and it goes on where it was stopped.
        space, plan: what is searched, and what may be paid.
        seed: of the points.
        asked: what the study is about; a folder that holds another one is refused.

    Raises ValueError for such a folder, and where Optuna is missing.
    """

    def __init__(self, folder: Path, space: Space, plan: Plan, *, seed: int = 0, asked: Values | None = None) -> None:
        self.library = optuna()
        self.folder, self.space, self.plan, self.seed = folder, space, plan, seed
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "search.lock")
        asked = {**(asked or {}), "over": space.described(), "budget": plan.budget, "seeds": plan.seeds, "search_seed": seed}
        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Optuna calls experimental
            storage = self.library.storages.JournalStorage(self.library.storages.journal.JournalFileBackend(str(folder / "optuna.jsonl")))
            pruner = self.library.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=4)
            made = {"study_name": "tune", "storage": storage, "direction": "maximize", "pruner": pruner, "load_if_exists": True}
            self.study = self.library.create_study(**made)
            self._begin(json.loads(json.dumps(asked)))

    def _begin(self, asked: Values) -> None:
        before = self.study.user_attrs.get("asked")
        if before is None:
            self.study.set_user_attr("asked", asked)
            for point in sobol(len(self.space.ranges), SOBOL, self.seed):
                values = {one.name: one.at(position) for one, position in zip(self.space.ranges, point, strict=True)}
                self.study.enqueue_trial(self._parameters(values))
        elif before != asked:
            changed = ", ".join(sorted(key for key in {*before, *asked} if before.get(key) != asked.get(key)))
            raise ValueError(
                f"{self.folder} holds a search that was asked for something else ({changed}). Choose another --output_dir, or remove it."
            )

    # Points as Optuna has them: choices that are numbers by their places
    def _distributions(self) -> dict[str, Any]:
        return {one.name: self._distribution(one) for one in self.space.ranges}

    def _distribution(self, one: Range) -> Any:
        kinds = self.library.distributions
        if one.choices:
            return (
                kinds.IntDistribution(0, len(one.choices) - 1)
                if one.ordered
                else kinds.CategoricalDistribution(list(map(str, one.choices)))
            )
        if one.whole:
            return kinds.IntDistribution(int(one.low), int(one.high), log=one.log)
        return kinds.FloatDistribution(one.low, one.high, log=one.log)

    def _parameters(self, values: Values) -> Values:
        def inside(one: Range) -> Any:
            if one.choices:
                place = one.choices.index(values[one.name])
                return place if one.ordered else str(one.choices[place])
            return min(max(values[one.name], one.low), one.high) if not one.whole else values[one.name]

        return {one.name: inside(one) for one in self.space.ranges}

    def _values(self, parameters: Values) -> Values:
        def outside(one: Range) -> Any:
            found = parameters[one.name]
            if one.choices:
                return one.choices[found] if one.ordered else one.choices[list(map(str, one.choices)).index(found)]
            return found if one.whole else float(f"{found:.4g}")

        return {one.name: outside(one) for one in self.space.ranges}

    # The search
    def run(self, measure: Measure, *, at_once: int = 1, say: Say = lambda candidates: None) -> list[Candidate]:
        """Search until the budget is spent; returns the base and all candidates, those of other processes too.

        Args:
            measure: runs points.
            at_once: how many candidates are handed to it together.
            say: told after each of its calls.
        """
        self._base(measure)
        say(self.candidates())
        while True:
            with ExitStack() as held:
                trials = self._ask(at_once, held)
                if not trials:
                    return self.candidates()
                going_on = self._shorten(trials, measure)
                results = measure([self._values(trial.params) for trial in going_on], "full") if going_on else []
                for trial, found in zip(going_on, results, strict=True):
                    trial.set_user_attr("full", asdict(found))
                    self.study.tell(trial, found.worth)
                say(self.candidates())

    def _base(self, measure: Measure) -> None:
        """By whoever comes first; the others go on, and find it at the end."""
        try:
            with FileLock(self.folder / "base.lock", timeout=0):
                if "base" not in self.study.user_attrs:
                    (found,) = measure([self.space.base], "full")
                    if found.accuracy is None:
                        raise ValueError(f"The training of the base itself diverged ({found.run}): give it a smaller learning rate first.")
                    self.study.set_user_attr("base", asdict(found))
        except Timeout:
            logger.info("Another process runs the base")

    def _ask(self, at_once: int, held: ExitStack) -> list[Any]:
        """New candidates, as many as may be paid for; each is held by a lock until this process has told what came of it."""
        trials = []
        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._give_up_the_dead()
            while len(trials) < at_once and self.plan.may_ask(self.candidates(), len(self._running())):
                seed = self.seed + 1000 * len(self.study.trials)
                self.study.sampler = self.library.samplers.TPESampler(seed=seed, n_startup_trials=4, multivariate=True, constant_liar=True)
                trial = self.study.ask(self._distributions())
                if any(self._values(trial.params) == one.values for one in self.candidates()):
                    if self._again(trial):
                        continue
                    break
                held.enter_context(self._lock_of(trial.number))
                trials.append(trial)
        return trials

    def _again(self, trial: Any) -> bool:
        """Let go of a point that was measured already; whether it is worth asking once more."""
        self.study.tell(trial, state=self.library.trial.TrialState.FAIL)
        failed = [one for one in self.study.trials if one.state == self.library.trial.TrialState.FAIL]
        return len(failed) < 4 * len(self.study.trials) / 5 + 8

    def _shorten(self, trials: Sequence[Any], measure: Measure) -> list[Any]:
        """Those that go on to their full length."""
        if not self.plan.short:
            return [*trials]
        going_on = []
        found = measure([self._values(trial.params) for trial in trials], "short")
        for trial, one in zip(trials, found, strict=True):
            trial.set_user_attr("short", asdict(one))
            trial.report(one.worth, step=1)
        for trial, one in zip(trials, found, strict=True):
            if one.accuracy is None or trial.should_prune():
                self.study.tell(trial, state=self.library.trial.TrialState.PRUNED)
            else:
                going_on.append(trial)
        return going_on

    def _running(self) -> list[Any]:
        return [trial for trial in self.study.trials if trial.state == self.library.trial.TrialState.RUNNING]

    def _lock_of(self, number: int) -> FileLock:
        return FileLock(self.folder / "held" / f"{number}.lock", timeout=0)

    def _give_up_the_dead(self) -> None:
        """Candidates that nobody holds were a process's that is gone: their points are asked for again, and their runs go on."""
        (self.folder / "held").mkdir(exist_ok=True)
        for trial in self._running():
            try:
                with self._lock_of(trial.number):
                    self.study.tell(trial.number, state=self.library.trial.TrialState.FAIL)
                    self.study.enqueue_trial(trial.params)
            except Timeout:
                continue

    # What is known
    def candidates(self) -> list[Candidate]:
        """The base, once it has run, and every candidate of which something is known."""
        base = self.study.user_attrs.get("base")
        found = [] if base is None else [Candidate(0, self.space.base, None, Measured(**base))]
        for trial in self.study.trials:
            if trial.state.is_finished() and trial.state != self.library.trial.TrialState.FAIL:
                runs = {length: Measured(**trial.user_attrs[length]) for length in ("short", "full") if length in trial.user_attrs}
                found.append(Candidate(trial.number + 1, self._values(trial.params), **runs))
        return found

    def waits_for(self) -> int:
        """Runs of other processes that have not ended, the base's too."""
        return len(self._running()) + ("base" not in self.study.user_attrs)


def sobol(dimensions: int, count: int, seed: int) -> list[list[float]]:
    """[count][dimensions] positions in [0, 1) that fill the box evenly, scrambled by the seed."""
    from scipy.stats.qmc import Sobol  # noqa: PLC0415

    return Sobol(dimensions, scramble=True, rng=seed).random_base2(math.ceil(math.log2(count))).tolist()[:count]
