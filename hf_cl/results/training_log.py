"""What `log.jsonl` of a run folder says of training: losses and learning rates by optimizer step."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

FILE = "log.jsonl"


@dataclass
class TrainingLog:
    """Values by name, each with the steps at which it was read."""

    losses: dict[str, dict[int, float]] = field(default_factory=dict)
    rates: dict[str, dict[int, float]] = field(default_factory=dict)
    """Learning rates, by the number of the parameter group."""
    begins: dict[int, int] = field(default_factory=dict)
    """The first step that was read of each session."""

    def add(self, record: dict[str, object]) -> None:
        """One record of a step; a step that comes again, after a resume, replaces what was read of it."""
        step, session = record["step"], record.get("session")
        if not isinstance(step, int):
            return
        if isinstance(session, int):
            self.begins.setdefault(session, step)
        for key, value in record.items():
            for prefix, kept in (("loss_", self.losses), ("learning_rate_", self.rates)):
                if key.startswith(prefix) and isinstance(value, int | float) and math.isfinite(value):
                    kept.setdefault(key.removeprefix(prefix), {})[step] = float(value)


def read_training_log(folder: Path) -> TrainingLog:
    """The losses and rates of a run; empty where it keeps no log. A torn line, the last of a run that was killed, is passed over."""
    log, path = TrainingLog(), folder / FILE
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if '"kind": "train"' in line:
                    try:
                        log.add(json.loads(line))
                    except ValueError:
                        continue
    return log
