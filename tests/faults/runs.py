"""Runs in processes of their own, forked from a server that has imported everything once: what a fault campaign starts and kills."""

from __future__ import annotations

import os
import sys
import traceback
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

MISTAKE, CRASH = 2, 70


def start(context: Any, name: str, folder: Path, fault: str | None = None, **settings: Any) -> BaseProcess:
    """Train `name` in `folder`, or go on with it; what it prints goes to `folder`.txt."""
    values = {"checkpoint_steps": 1, "resume": "auto", **settings}
    process = context.Process(target=_train, args=(name, folder, fault, values))
    process.start()
    return process


def said(folder: Path) -> str:
    """What the last run in `folder` printed."""
    return folder.with_suffix(".txt").read_text()


def _train(name: str, folder: Path, fault: str | None, settings: dict[str, Any]) -> None:
    import five_runs
    import torch

    torch.set_num_threads(1)
    output = os.open(folder.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        probes = [FAULTS[fault]()] if fault else []
        trainer = five_runs.build(name, folder, **settings)
        trainer.probes += probes
        trainer.fit()
    except (ValueError, RuntimeError, OSError) as error:
        print(f"hf_cl: {type(error).__name__}: {error}", flush=True)
        os._exit(MISTAKE)
    except Exception:  # the campaign's own boundary: a crash is what it counts
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(CRASH)


def _broken_probe() -> Any:
    from hf_cl.contracts import Probe

    class Broken(Probe):
        name = "broken"

        def after_step(self, trainer: Any) -> None:
            if trainer.position.step == 5:
                raise KeyError("a mistake in somebody's probe")

    return Broken()


def _not_a_number() -> Any:
    import torch

    from hf_cl.contracts import Probe

    class Poison(Probe):
        name = "poison"

        def after_step(self, trainer: Any) -> None:
            if trainer.position.step == 4:
                with torch.no_grad():
                    for _, parameter in trainer.named_parameters:
                        parameter.fill_(torch.nan)

    return Poison()


def _vanishing_images() -> Any:
    from hf_cl.contracts import Probe

    class Vanish(Probe):
        """As if the disk with the data of later sessions had gone."""

        name = "vanish"

        def end_session(self, trainer: Any, session: Any) -> None:
            import stream

            def gone(self: Any, position: int) -> None:
                raise FileNotFoundError(2, "No such file or directory", "photos/17.png")

            stream.Images.__getitem__ = gone

    return Vanish()


FAULTS = {"broken probe": _broken_probe, "not a number": _not_a_number, "vanishing images": _vanishing_images}
