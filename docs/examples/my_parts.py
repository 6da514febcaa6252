"""Parts of your own on the command line: hf-cl train compose --import docs/examples/my_parts.py --losses features_hold --dataset digits"""

from dataclasses import dataclass

from hf_cl.contracts import LossTerm
from hf_cl.losses import LOSSES
from hf_cl.methods import METHODS, LoraSettings
from hf_cl.methods.compose import compose


class FeaturesHold(LossTerm):
    """The features of an image stay where the last session's model has them, up to a margin."""

    name = "features_hold"
    needs = frozenset({"previous"})  # so `compose` begins with it in session 1

    def __init__(self, margin: float = 0.0, weight: float = 1.0):
        self.margin, self.weight = margin, weight

    def __call__(self, ctx):
        before = ctx.frozen("previous", view=0).features  # [B, D], without gradient
        return ((ctx.features - before).square().sum(1) - self.margin).clamp_min(0).mean()


LOSSES["features_hold"] = FeaturesHold  # now `--losses '{features_hold: {margin: 0.1}}'` knows it


@dataclass
class HoldSettings(LoraSettings):
    """Settings of `hold`."""

    hold: float = 1.0
    """Weight of the loss that holds the features."""

    def method(self):
        return compose(
            adapter={"type": "lora", "r": self.r},
            head=self.head,
            losses={"features_hold": {"weight": self.hold}},
            epochs=self.epochs,
            learning_rate=self.learning_rate,
        )


METHODS["hold"] = HoldSettings  # and `hf-cl train hold --import ...`, with --help, configs of your own and --resume
