"""The mark "joint": the run's own method, trained on all of its images at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hf_cl.contracts import Scenario
from hf_cl.run.open import open_base
from hf_cl.run.trainer import ContinualTrainer
from hf_cl.scenarios.joint import joint
from hf_cl.settings import RunSettings

JOINT = "all classes in one session"


def joint_mark(settings: RunSettings, scenario: Scenario) -> dict[str, float]:
    """Name -> accuracy on all classes of one session on all images; in `marks/joint` of the run folder, where a stopped one goes on."""
    alone = {"marks": [], "report_to": [], "push_to_hub": None, "export_statistics": False, "resume": "auto"}
    settings = replace(settings, output_dir=str(Path(settings.output_dir) / "marks" / "joint"), **alone)
    method = settings.method()
    backbone, processor, tokenizer = open_base(settings, method)
    trainer = ContinualTrainer(backbone, processor, method, joint(scenario), settings, quiet=True, tokenizer=tokenizer)
    accuracy = trainer.fit().metrics["final_accuracy"]
    assert isinstance(accuracy, float)
    return {JOINT: accuracy}
