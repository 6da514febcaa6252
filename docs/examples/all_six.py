"""The six parts of this folder as one method on handwritten digits, three sessions, no network: python docs/examples/all_six.py"""

import torch
from distance_head import DistanceHead
from distillation_loss import Distillation
from grouped_scenario import grouped
from resting_rows_rule import OldRowsRest
from row_drift_probe import RowDrift
from scale_adapter import ScaleConfig

from hf_cl import ContinualTrainer, TrainingSettings, load_backbone, load_processor
from hf_cl.contracts import Method, Phase, everything
from hf_cl.heads import HEADS
from hf_cl.losses import MaskedCrossEntropy
from hf_cl.methods.schedules import constant
from hf_cl.scenarios import open_images


def scaled(*, epochs=1, learning_rate=1e-3):
    """Cross-entropy among the session's own classes, from session 1 on with distillation."""
    cross_entropy, distillation = MaskedCrossEntropy("new"), Distillation()

    def phases(session):
        losses = [cross_entropy] if session.id == 0 else [cross_entropy, distillation]
        return [Phase("train", epochs, losses, everything)]

    def optimizer(session, named_parameters):
        return torch.optim.Adam([p for _, p in named_parameters], lr=learning_rate), constant(learning_rate)

    adapter = ScaleConfig(head={"type": "distance"})
    return Method(name="scaled", adapter=adapter, phases=phases, optimizer=optimizer, rule=OldRowsRest())


if __name__ == "__main__":
    assert HEADS["distance"] is DistanceHead  # importing a part's file makes it known
    scenario = grouped(open_images("digits"), [["3", "8"], ["0", "1", "2", "4"], ["5", "6", "7", "9"]])
    settings = TrainingSettings(output_dir="runs/scaled", backbone="demo", batch_size=32, augmentation="crop")
    drift = RowDrift()
    trainer = ContinualTrainer(load_backbone("demo"), load_processor("demo"), scaled(), scenario, settings, probes=[drift])
    trainer.fit()
    assert drift.report() == {"drift": [0.0, 0.0, 0.0], "largest": 0.0}  # the rule did what it says
