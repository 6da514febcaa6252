"""HYPER_LORA beside one LoRA for each session: accuracy where an image's session is given, and where its query finds it.

    python benchmarks/given_sessions.py benchmarks/tables/hyper_lora_cifar20.yaml --dataset ./cifar20 --output_dir runs/hyper_lora

Both sides classify an image among the classes of one session and find that by the same rule, the nearest class mean of the untouched
tower; so an image is right where its session is found and its class is right among that session's. The other runs of the table's stream are
those of `compare_methods.py`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from compare_methods import settings_of, spread
from numpy.typing import NDArray

from hf_cl.contracts import Session, Test
from hf_cl.run import ContinualTrainer, open_base, open_scenario, quiet_libraries, train
from hf_cl.scenarios import SessionStream
from hf_cl.scenarios.image_set import ImageSet
from hf_cl.training.evaluation import scored

Right = NDArray[np.bool_]


def right_of(trainer: ContinualTrainer, session: Session) -> Right:
    """[n] whether each test image of a session is named rightly among the session's own classes."""
    found = list(scored(trainer.classifier, trainer.images, session, trainer.accelerator))
    scores, labels = (np.concatenate([getattr(batch, name) for batch in found]) for name in ("scores", "labels"))
    own = np.array(session.own)
    return own[scores[:, own].argmax(1)] == labels


def of_generated(trainer: ContinualTrainer, sessions: Sequence[Session]) -> tuple[list[Right], list[Right]]:
    """For each session [n]: whether an image's class is right with its session's factors, and whether its session is found."""
    tuner, right, found = trainer.tuner, [], []
    generator = tuner.generator("default")
    for session in sessions:
        test = session.tests[-1]
        tuner.set_session(session.id)
        right.append(right_of(trainer, replace(session, tests=(test,))))
        tuner.set_session(None)
        which = [
            generator.session_of_query(tuner.queries(batch.values["pixel_values"])) for batch in trainer.images.test_batches([test.data])
        ]
        found.append((torch.cat(which) == session.id).cpu().numpy())
    return right, found


def of_one_each(settings: Any, scenario: SessionStream, sessions: Sequence[Session]) -> list[Right]:
    """For each session [n]: whether an image's class is right by a LoRA that was trained on that session alone."""
    found = []
    for session in sessions:
        method = settings.method()
        base, processor, _ = open_base(settings, method)
        folder = Path(settings.output_dir) / f"session-{session.id}"
        alone = only(session, scenario)
        trainer = ContinualTrainer(base, processor, method, alone, replace(settings, output_dir=str(folder)), quiet=True)
        trainer.fit()
        found.append(right_of(trainer, next(iter(alone))))
    return found


def only(session: Session, scenario: SessionStream) -> SessionStream:
    """A stream of one of the sessions of another."""
    names, first, test = session.new_class_names, session.first_new_class, session.tests[-1]
    train, tested = (moved(data, first) for data in (session.train, test.data))
    first_test = Test("session-0", tested, tuple(range(len(names))))
    own = Session(id=0, class_names=names, new_class_names=names, train=train, tests=(first_test,))
    return SessionStream((own,), names, {**scenario.protocol, "details": {"session": session.id}}, ())


def moved(data: Any, first: int) -> ImageSet:
    """The images with labels counted from 0."""
    return ImageSet(data.store, np.asarray(data.labels) - first, np.asarray(data.indices))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="YAML file: common, generated, alone")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    spec, rows = yaml.safe_load(asked.table.read_text()), dict[str, list[float]]()
    quiet_libraries()
    for seed in asked.seeds:
        started, own = time.process_time(), {"dataset": asked.dataset, "seed": seed, "class_order_seed": seed}
        folder = asked.output_dir / f"seed-{seed}"
        trainer = train(settings_of(spec["generated"], spec["common"], output_dir=str(folder / "generated"), **own), quiet=True)
        settings = settings_of(spec["alone"], spec["common"], output_dir=str(folder / "alone"), **own)
        scenario: Any = open_scenario(settings)
        sessions = list(scenario)
        generated, found = of_generated(trainer, sessions)
        alone = of_one_each(settings, scenario, sessions)
        values = {
            "hyper_lora, evaluation of the run": [trainer.results.results.metrics["final_accuracy"]],
            "session found": found,
            "hyper_lora, session given": generated,
            "hyper_lora, session found": [a & b for a, b in zip(generated, found, strict=True)],
            "one LoRA each, session given": alone,
            "one LoRA each, session found": [a & b for a, b in zip(alone, found, strict=True)],
        }
        for name, parts in values.items():
            rows.setdefault(name, []).append(float(np.mean([np.mean(part) for part in parts])))
        numbers = ", ".join(f"{name} {values[-1]:.4f}" for name, values in rows.items())
        print(f"seed {seed}: {numbers}, {time.process_time() - started:.0f} s of processor", flush=True)
    for name, values in rows.items():
        print(f"| {name} | {spread(values)} |")


if __name__ == "__main__":
    main()
