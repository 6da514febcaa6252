"""Trains with each file of docs/examples in turn, on six digits of each class, and writes what came out into its outcome.json.

    python run_examples.py FOLDER

A process of its own, since the examples make a peft type and a head known for good.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from run_snippets import six_of_each
from safetensors.torch import load_file

from hf_cl import ContinualTrainer, OnePromptConfig, TrainingSettings, load_backbone, load_processor
from hf_cl.contracts import Method, Phase, Scenario, everything
from hf_cl.losses import MaskedCrossEntropy
from hf_cl.methods.schedules import constant
from hf_cl.rules import Plain
from hf_cl.scenarios import DataError, class_incremental, open_images, sources

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def method(*, adapter: Any = None, losses: Any = (), rule: Any = None) -> Method:
    """Two prefix rows, cross-entropy among all classes seen, Adam; `losses` join from session 1 on."""
    return Method(
        name="tiny",
        adapter=adapter or OnePromptConfig(layer_tokens={0: 2}, head={"type": "linear"}),
        phases=lambda session: [Phase("train", 1, [MaskedCrossEntropy("seen"), *(losses if session.id else ())], everything)],
        optimizer=lambda session, named: (torch.optim.Adam([p for _, p in named], lr=1e-2), constant(1e-2)),
        rule=rule or Plain(),
    )


def fit(folder: Path, scenario: Scenario | None = None, probes: Any = (), **parts: Any) -> ContinualTrainer:
    """Two sessions of five digits."""
    settings = TrainingSettings(output_dir=str(folder), backbone="demo", batch_size=16, augmentation="none", cpu=True)
    scenario = scenario or class_incremental(open_images("digits"), 5, 5, "natural")
    backbone, processor = load_backbone("demo"), load_processor("demo")
    trainer = ContinualTrainer(backbone, processor, method(**parts), scenario, settings, probes=probes, quiet=True)
    trainer.fit()
    return trainer


def saved(folder: Path, session: int) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapters" / f"session-{session}" / "adapter_model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def reloads(trainer: ContinualTrainer) -> dict[str, Any]:
    """The last adapter on a fresh base, by peft alone."""
    model = PeftModel.from_pretrained(load_backbone("demo"), str(trainer.folder / "adapters" / "session-1")).eval()
    side = model.config.image_size
    pixels = torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = trainer.model.eval()(pixel_values=pixels).logits, model(pixel_values=pixels).logits
    config = model.peft_config["default"]
    return {"type": config.peft_type.value, "head": config.head["type"], "columns": after.shape[1], "equal": torch.equal(before, after)}


def adapter(folder: Path) -> dict[str, Any]:
    from scale_adapter import ScaleConfig

    trainer = fit(folder, adapter=ScaleConfig(head={"type": "linear"}))
    scales = [tensor for name, tensor in saved(folder, 1).items() if "scale_out" in name]
    return reloads(trainer) | {"layers": len(scales), "moved": any((scale != 1).any().item() for scale in scales)}


def head(folder: Path) -> dict[str, Any]:
    import distance_head  # noqa: F401

    return reloads(fit(folder, adapter=OnePromptConfig(layer_tokens={0: 2}, head={"type": "distance"})))


def loss(folder: Path) -> dict[str, Any]:
    from distillation_loss import Distillation

    fit(folder, losses=[Distillation()])
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {"sessions": [[line["session"], line["loss_distillation"]] for line in lines if "loss_distillation" in line]}


def gradient_rule(folder: Path) -> dict[str, Any]:
    from resting_rows_rule import OldRowsRest

    fit(folder, rule=OldRowsRest())
    before, after = ({k: v for k, v in saved(folder, session).items() if "classifier" in k} for session in (0, 1))
    return {"rest": same(before, {k: v[:5] for k, v in after.items()}), "rows": [len(v) for v in after.values()]}


def scenario(folder: Path) -> dict[str, Any]:
    from grouped_scenario import grouped

    source = open_images("digits")
    trainer = fit(folder, grouped(source, [["3", "8"], list("01245679")]))
    try:
        grouped(source, [["3", "8"]])
    except DataError as error:
        refusal = str(error)
    return {"sessions": [session.new_class_names for session in trainer.results.results.sessions], "refusal": refusal}


def probe(folder: Path) -> dict[str, Any]:
    from row_drift_probe import RowDrift

    drift = RowDrift()
    fit(folder / "with", probes=[drift])
    fit(folder / "without")
    return {**drift.report(), "weights_equal": same(saved(folder / "with", 1), saved(folder / "without", 1))}


def own_loss(folder: Path) -> dict[str, Any]:
    runpy.run_path(str(EXAMPLES / "own_loss.py"), run_name="__main__")
    run = Path("runs/ovor_stay")
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    with_it = {line["session"] for line in lines if "loss_features_stay" in line}
    return {"sessions": sorted(with_it), "method": json.loads((run / "results.json").read_text())["method"]["name"]}


def command(*words: str) -> tuple[int, str]:
    """Exit status and output of the example's own command."""
    sys.argv = [str(EXAMPLES / "own_command.py"), *words]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0), said.getvalue()
    raise AssertionError("it ends by sys.exit")


def own_command(folder: Path) -> dict[str, Any]:
    """Trained from a YAML file, then again from the checkpoint before the last; that with another weight."""
    config = Path("stay.yaml")
    config.write_text("dataset: digits\nnum_base_classes: 5\nclasses_per_session: 5\nepochs: 1\nvor_epochs: 1\nbatch_size: 16\nstay: 2.0\n")
    words = ["--config", str(config), "--output_dir", str(folder), "--checkpoint_steps", "1", "--resume", "auto"]
    statuses = [command(*words)[0]]
    first, newest = saved(folder, 1), max((folder / "checkpoints").glob("step-*"))
    shutil.rmtree(newest)
    shutil.rmtree(folder / "adapters" / "session-1")
    statuses.append(command(*words)[0])
    refused, why = command(*words, "--stay", "3")
    return {
        "statuses": [*statuses, refused],
        "same": same(first, saved(folder, 1)),
        "why": why,
        "help": command("--help")[1],
        "typo": command("--sta", "3")[1],
        "config": (folder / "config.yaml").read_text(),
    }


def all_six(folder: Path) -> dict[str, Any]:
    runpy.run_path(str(EXAMPLES / "all_six.py"), run_name="__main__")
    return {"adapters": sorted(path.name for path in Path("runs/scaled/adapters").iterdir())}


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated", category=FutureWarning)
    sys.path.insert(0, str(EXAMPLES))
    os.chdir(sys.argv[1])
    sources.read_digits = six_of_each
    outcome = {
        run.__name__: run(Path(sys.argv[1]) / run.__name__)
        for run in (adapter, head, loss, gradient_rule, scenario, probe, own_loss, own_command, all_six)
    }
    Path("outcome.json").write_text(json.dumps(outcome))
