"""A method of your own as a command with settings, configs and --resume: python docs/examples/own_command.py --help"""

import sys
from dataclasses import dataclass

from own_loss import staying

from hf_cl import ContinualTrainer
from hf_cl.methods import OvorSettings
from hf_cl.run import launch, open_base, open_scenario


@dataclass
class StaySettings(OvorSettings):
    """Those of `ovor`, and one more."""

    stay: float = 1.0
    """Weight of the loss that holds the features."""

    def method(self):
        return staying(super().method(), self.stay)


def main(settings):
    """As the recipes do it."""
    scenario = open_scenario(settings)
    method = settings.method()
    backbone, processor, tokenizer = open_base(settings, method)
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()


if __name__ == "__main__":
    sys.exit(launch(main, StaySettings, "ovor_stay"))
