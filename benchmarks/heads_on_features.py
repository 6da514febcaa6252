"""A table of heads that train nothing, in seconds a row: the rows of `compare_methods.py` on features that one run has computed.

    python benchmarks/heads_on_features.py benchmarks/tables/heads_cifar100_small.yaml --dataset ./cifar100_small --output_dir runs/heads

Per class order (`--seeds`, which are seed and class_order_seed) and precision one run of `frozen` under class means gives the features of
all pictures, session by session; `feature_cache` of the table makes one pass serve all orders. Each head then goes through the same
sessions with the same sample ids and seed, so its numbers are those of its own `hf-cl train frozen`. For tables whose rows are `frozen` and
differ in `head`, `mixed_precision` alone. The table is printed and written to `table.md`: percent, mean and standard deviation (n - 1).
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from compare_methods import settings_of, spread

from hf_cl.backbones import encode_names
from hf_cl.contracts import FeatureSet, Head, Probe, Session
from hf_cl.heads import build_head
from hf_cl.memory import ClassStatistics
from hf_cl.metrics import CalibrationBins, expected_calibration_error
from hf_cl.run import quiet_libraries
from hf_cl.run.open import open_base, open_scenario
from hf_cl.run.trainer import ContinualTrainer


class Keep(Probe):
    """Keeps the features of each session's training pictures and of its new test."""

    name = "keep"

    def __init__(self) -> None:
        self.sessions: list[tuple[Session, FeatureSet, FeatureSet]] = []

    def end_session(self, trainer: Any, session: Session) -> None:
        self.sessions.append((session, trainer.features_of(session.train), trainer.features_of(session.tests[-1].data)))


@dataclass
class StandIn:
    """What a head that fits itself asks of a trainer, with features that are there."""

    head: Head
    seed: int
    features: Mapping[int, FeatureSet]

    def __post_init__(self) -> None:
        self.statistics = ClassStatistics(self.head.statistics)

    def generator_for(self, *key: int | str) -> torch.Generator:
        digest = hashlib.sha256(repr((self.seed, *key)).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def features_of(self, dataset: Any) -> FeatureSet:
        return self.features[id(dataset)]

    def class_statistics(self, session: Session) -> ClassStatistics:
        data = self.features_of(session.train)
        own = data.labels >= session.first_new_class
        self.statistics.count_session(session.id, data.features[own], data.labels[own], data.index[own])
        return self.statistics


def features_of(settings: Any) -> list[tuple[Session, FeatureSet, FeatureSet]]:
    """Of a run's sessions."""
    keep = Keep()
    method, scenario = settings.method(), open_scenario(settings)
    backbone, processor, tokenizer = open_base(settings, method)
    ContinualTrainer(backbone, processor, method, scenario, settings, probes=[keep], quiet=True, tokenizer=tokenizer).fit()
    return keep.sessions


def measure(spec: Mapping[str, Any], sessions: Sequence[tuple[Session, FeatureSet, FeatureSet]], settings: Any) -> dict[str, float]:
    """The metrics that tables of heads show, by the names of `hf_cl.metrics`, and `seconds` of the processor for fits and predictions."""
    spec, texts = dict(spec), None
    names = sessions[-1][0].class_names
    if spec.get("text", "none") != "none":
        texts = encode_names(settings.backbone, names, spec.get("template", "a photo of a {}."))
        spec["text_width"] = texts.width
    head: Any = build_head(spec, sessions[0][1].features.shape[1], 0)
    trainer = StandIn(head, settings.seed, {id(session.train): train for session, train, _ in sessions})
    started, accuracies = time.process_time(), []
    labels, logits, right = torch.empty(0), torch.empty(0), torch.empty(0)
    for number, (session, _, _) in enumerate(sessions):
        head.train()
        head.grow(session.new_class_names)
        if texts is not None:
            head.write_texts(texts.rows(session.class_names), texts.projection)
        head.begin_session(trainer, session)
        head.end_session(trainer, session)
        head.eval()
        tests = [test for _, _, test in sessions[: number + 1]]
        labels = torch.cat([test.labels for test in tests])
        with torch.no_grad():
            logits = torch.cat([head(test.features) for test in tests])  # [n, C]
        right = logits.argmax(1) == labels
        accuracies.append(float(right.float().mean()))
    base = labels < len(sessions[0][0].class_names)
    parts = [float(right[base].float().mean()), float(right[~base].float().mean())]
    bins = CalibrationBins.of(head.probabilities(logits).amax(-1).numpy(), right.numpy())
    return {
        "final_accuracy": accuracies[-1],
        "average_incremental_accuracy": statistics.mean(accuracies),
        "harmonic_accuracy": statistics.harmonic_mean(parts),
        "expected_calibration_error": expected_calibration_error(bins) or 0.0,
        "seconds": time.process_time() - started,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="YAML file: common, rows, columns")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="*", help="these alone")
    options = parser.parse_args()
    spec = yaml.safe_load(options.table.read_text())
    quiet_libraries()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        known: dict[str, Any] = {}
        for name, row in spec["rows"].items():
            if options.rows is not None and name not in options.rows:
                continue
            precision = row.get("mixed_precision", "no")
            folder = options.output_dir / f"features-{precision}-seed-{seed}"
            own = {"dataset": options.dataset, "output_dir": str(folder), "seed": seed, "class_order_seed": seed}
            pool = {name: value for name, value in row["head"].items() if name == "pool"}
            settings = settings_of({**row, "head": {"type": "prototype", **pool}}, spec["common"], **own)
            if precision not in known:
                known[precision] = features_of(settings)
            found.setdefault(name, []).append(measure(row["head"], known[precision], settings))
            values = ", ".join(f"{metric} {value:.4f}" for metric, value in found[name][-1].items())
            print(f"seed {seed}, {name}: {values}", flush=True)
    columns = spec["columns"]
    lines = [["head", *columns, "seconds of processor"], ["---"] * (len(columns) + 2)]
    for name, runs in found.items():
        seconds = statistics.mean(run["seconds"] for run in runs)
        lines.append([name, *(spread([run[column] for run in runs]) for column in columns), f"{seconds:.1f}"])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    print(text)
    (options.output_dir / "table.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
