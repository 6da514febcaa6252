"""Methods x seeds -> a table of means and standard deviations, as the model cards have it.

    python benchmarks/compare_methods.py benchmarks/tables/sara_cifar100_small.yaml --dataset ./cifar100_small --output_dir runs/sara

The file names the settings that all runs share (`common`), one row per method with settings of its own (`rows`), and the metrics to show
(`columns`, names of `hf_cl.metrics`, of a metric that is a list the last value, or `probe.key` of what a probe reports), and perhaps
settings that differ from seed to seed (`by_seed`, a list that seeds go round in) and `groups` of classes by name, each of which is a column
of its final accuracy. Every run is what `hf-cl train` does with the same
settings, with its report and card; `seed` and `class_order_seed` are the run's seed. A program that was stopped goes on where it was:
finished runs are read, the unfinished one resumes. The table is printed and written to `table.md`: percent, mean and standard deviation
(n - 1) over the seeds. `--rows` names the rows to train; of the others it shows what is finished.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from aligned_probe import AlignedProbeSettings
from shira_baseline import ShiraSettings

from hf_cl.methods import METHODS
from hf_cl.results.results import Results
from hf_cl.run import parse_settings, quiet_libraries, train

Groups = Mapping[str, Sequence[str]]
KNOWN = {**METHODS, "aligned_probe": AlignedProbeSettings, "shira": ShiraSettings}


def settings_of(row: Mapping[str, Any], common: Mapping[str, Any], **own: Any) -> Any:
    """The run's settings: those of the row win over the common ones. Raises ValueError for what `hf-cl train` refuses."""
    values = {**common, **row, **own}
    method = values.pop("method")
    return parse_settings(KNOWN[method], method, [f"--{key}={json.dumps(value)}" for key, value in values.items()])


def is_finished(folder: Path) -> bool:
    """The card is the last thing that a run writes."""
    return (folder / "README.md").exists()


def one_run(settings: Any) -> Results:
    """Train, or read what is there."""
    folder = Path(settings.output_dir)
    if is_finished(folder):
        return Results.load(folder / "results.json")
    return train(settings, quiet=True).finish()


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation in percent."""
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


def value_of(run: Results, column: str, groups: Groups) -> float:
    """A metric, what a probe reports, or the mean accuracy at the end over the classes of a group."""
    if column in groups:
        at_the_end = dict(zip(run.class_names, (run.class_accuracy_matrix or [[]])[-1], strict=True))
        return statistics.mean(at_the_end[name] or 0.0 for name in groups[column])
    if column in run.metrics:
        metric: Any = run.metrics[column]
        return metric[-1] if isinstance(metric, list) else metric
    return run.probe_numbers[column]


def cells(runs: Sequence[Results], columns: Sequence[str], groups: Groups) -> list[str]:
    """One row's metrics and its number of trained parameters."""
    found = []
    for column in columns:
        found.append(spread([value_of(run, column, groups) for run in runs]))
    trained = max(run.parameters.trainable for run in runs if run.parameters)
    return [*found, f"{trained:,}" if any(session.trained for session in runs[0].sessions) else "0"]


def table(rows: Mapping[str, Sequence[Results]], columns: Sequence[str], seeds: int, groups: Groups) -> str:
    """Markdown; rows without a run are left out, and those with too few say so."""
    lines = [["method", *columns, "trained parameters"], ["---"] * (len(columns) + 2)]
    for name, runs in rows.items():
        if runs:
            lines.append([name if len(runs) == seeds else f"{name} ({len(runs)} of {seeds} seeds)", *cells(runs, columns, groups)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="YAML file: common, rows, columns")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="*", help="train only these; none after the flag: train nothing")
    options = parser.parse_args()
    spec = yaml.safe_load(options.table.read_text())
    common, groups = spec.get("common", {}), spec.get("groups", {})
    chosen = list(spec["rows"]) if options.rows is None else options.rows
    rows: dict[str, list[Results]] = {name: [] for name in spec["rows"]}
    quiet_libraries()
    for seed in options.seeds:
        for number, (name, row) in enumerate(spec["rows"].items()):
            method = {**common, **row}["method"]
            folder = options.output_dir / f"row-{number}-{method}" / f"seed-{seed}"
            if name not in chosen and not is_finished(folder):
                continue
            own = {"dataset": options.dataset, "output_dir": str(folder), "seed": seed, "class_order_seed": seed, "resume": "auto"}
            drawn = spec.get("by_seed", [{}])
            started = time.process_time()
            results = one_run(settings_of(row, common | drawn[seed % len(drawn)], **own))
            rows[name].append(results)
            final = value_of(results, spec["columns"][0], groups)
            print(f"seed {seed}, {name}: {spec['columns'][0]} {final:.4f}, {time.process_time() - started:.0f} s of processor", flush=True)
    text = table(rows, spec["columns"], len(options.seeds), groups)
    print(text)
    (options.output_dir / "table.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
