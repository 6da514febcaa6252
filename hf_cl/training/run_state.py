"""The one home of what a resumed run needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hf_cl.checkpoints.position import Position
from hf_cl.checkpoints.state_tree import pack, rng_state, set_rng_state
from hf_cl.checkpoints.statistics_files import StatisticsFiles
from hf_cl.checkpoints.store import KEEP, CheckpointStore
from hf_cl.checkpoints.taught import check_current, check_protocol, check_taught, taught
from hf_cl.checkpoints.tensors import owned_tensors, restore_tensors
from hf_cl.contracts import Part, Session
from hf_cl.training.run import Run
from hf_cl.training.session_results import SessionResults


class RunState:
    """Saves and restores everything that changes during a run: adapter, head, optimizer, scaler, parts, snapshots, statistics, results,
    random generators and the position. What it does not hold (order of the data, schedule, augmentation) is a function of the position."""

    def __init__(self, folder: Path, accelerator: Any) -> None:
        self.store = CheckpointStore(folder, accelerator.process_index, accelerator.num_processes, accelerator.wait_for_everyone)
        self.statistics = StatisticsFiles(folder, writes=accelerator.process_index == 0)
        self.accelerator = accelerator
        self._pending: dict[str, Any] | None = None
        self._taught: list[str] = []

    def find(self, run: Run) -> Position:
        """The newest checkpoint that every process reads whole; its state waits for `restore_if_due`.

        Raises ValueError where the scenario's sessions do not begin with those that the checkpoint knows, or its protocol is another.
        """
        mine = [*self.store.steps(), *[-1] * KEEP][:KEEP]
        everybody = self.accelerator.gather(torch.tensor([mine], device=self.accelerator.device))  # [processes, KEEP]
        step = max(set.intersection(*map(set, everybody.tolist())), default=-1)
        if step < 0:
            return Position()
        self._pending = self.store.load(step)
        run.last_checkpoint = f"step {step}"
        if not {"trained_fields", "taught", "calibration", "carried"} <= self._pending.keys() or "history" not in self._pending["results"]:
            raise ValueError(f"The checkpoint of step {step} was written by an earlier version of hf_cl; choose another output_dir.")
        self._pending["statistics_files"] = self.store.read(step, "statistics_files", rank=0)
        position = Position(**self._pending["position"])
        check_protocol(self._pending["protocol"], run.scenario.protocol)
        strict, known = run.settings.strict_data, [*map(json.loads, self._pending["taught"])]
        for change in check_taught(known, run.plan.sessions, position.session, strict=strict):
            run.records.say(change)
        if run.memory is not None:
            run.plan.remember(self._pending["memory"])
        if position.session == len(run.plan.sessions):
            run.records.say("All sessions of this run have ended: nothing is left to train.")
        else:
            run.records.say(f"Resuming from the checkpoint of step {step} (session {position.session}).")
        before, now = self.store.world_of(self.store.path(step)), self.accelerator.num_processes
        if before != now:
            run.records.say(
                f"Number of processes: {before} then, {now} now. Images, their order and their augmentation stay the same; sums are "
                "rounded in another order and dropout draws other masks, so bits may differ."
            )
        return position

    def check(self, run: Run) -> None:
        """Raise TypeError, naming the part, for state that has no place in a checkpoint: better now than when a signal asks for one."""
        pack({name: part.state_dict() for name, part in run.named_parts().items() if name != "head"}, {}, "state/parts")

    def restore_if_due(self, run: Run, results: SessionResults) -> None:
        """Put the waiting state in place, once, when the run has the structure it was saved with."""
        if self._pending is None:
            return
        state, self._pending = self._pending, None
        for name, value in state["trained_fields"].items():
            setattr(run.config, name, value)
        restore_tensors(run.model, run.tuner.prefix, run.head, state["tensors"])
        if state["optimizer"] is not None:
            run.optimizer.load_state_dict(state["optimizer"])
        run.carried = state["carried"]
        if state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        parts = _other_parts(run)
        _check_same_parts(state["parts"], parts)
        for name, part in parts.items():
            if name in state["parts"]:
                part.load_state_dict(state["parts"][name])
        run.plan.restore_losses(state["loss_parameters"], state["losses"])
        device = self.accelerator.device
        run.frozen.snapshots = {
            role: {name: tensor.to(device) for name, tensor in tensors.items()} for role, tensors in state["snapshots"].items()
        }
        run.statistics.restore(state["statistics"], self.statistics.read(state["statistics_files"]))
        run.calibration.load_state_dict(state["calibration"])
        results.load_state_dict(state["results"])
        run.generator.set_state(state["generator"])
        if run.position.begun:  # only now: what a memory holds may be part of the session's images
            check_current(json.loads(state["taught"][-1]), run.session)
        set_rng_state(state["rng"])  # last: nothing above may draw after it

    def save(self, run: Run, results: SessionResults) -> None:
        """Write a checkpoint of the present position."""
        position, files = run.position, self.statistics.write(run.statistics)
        state = {
            "position": position.state_dict(),
            "protocol": dict(run.scenario.protocol),
            "taught": self._taught_in(run.plan.sessions[: position.session + position.begun]),
            "trained_fields": {name: getattr(run.config, name) for name in ("temperature", *run.tuner.trained_fields)},
            "tensors": owned_tensors(run.model, run.tuner.prefix, run.head),
            "optimizer": run.optimizer.state_dict() if position.begun else None,
            "carried": {} if position.begun else run.carried,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
            "loss_parameters": run.plan.loss_parameters(),
            "losses": {key: term.state_dict() for key, term in run.plan.losses().items()},
            "parts": {name: part.state_dict() for name, part in _other_parts(run).items()},
            "snapshots": run.frozen.snapshots,
            "statistics": run.statistics.summary(),
            "statistics_files": files,
            "calibration": run.calibration.state_dict(),
            "memory": None if run.memory is None else run.memory.state_dict(),
            "results": results.state_dict(),
            "generator": run.generator.get_state(),
            "rng": rng_state(),
        }
        run.last_checkpoint = str(self.store.save(position.step, state, self.statistics.sums(files)))
        if self.accelerator.is_main_process:
            self.statistics.remove_unused(self.store.needed())

    def _taught_in(self, sessions: Sequence[Session]) -> list[str]:
        """What was taught, in JSON: of each session it is found out once, and packed as one text."""
        self._taught += map(json.dumps, taught(sessions[len(self._taught) :]))
        return self._taught[: len(sessions)]


def _other_parts(run: Run) -> dict[str, Part]:
    """What has state of its own beside the losses. A head's is in "tensors" whole: its own state_dict is what an adapter file holds. A
    memory's is read before the first session is entered."""
    losses = {id(term) for term in run.plan.losses().values()}
    apart = ("head", "memory")
    return {name: part for name, part in run.named_parts().items() if name not in apart and id(part) not in losses}


def _check_same_parts(saved: Mapping[str, Any], parts: Mapping[str, Part]) -> None:
    """Raise ValueError where one side has state of a part that the other side knows nothing of."""
    here = {name for name, part in parts.items() if part.state_dict()}
    odd = sorted({name for name, state in saved.items() if state} - parts.keys()) or sorted(here - saved.keys())
    if odd:
        where = "the checkpoint has" if odd[0] in saved else "this run has"
        raise ValueError(f"The checkpoint belongs to another configuration: only {where} {odd[0]}. Resume with the same method and probes.")
