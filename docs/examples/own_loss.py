"""A loss of your own in a method that exists: python docs/examples/own_loss.py"""

from dataclasses import replace

from hf_cl import ContinualTrainer, TrainingSettings, load_backbone, load_processor
from hf_cl.contracts import LossTerm
from hf_cl.methods import ovor
from hf_cl.scenarios import class_incremental, open_images


class FeaturesStay(LossTerm):
    """The features of an image stay where the last session's model has them."""

    name = "features_stay"
    needs = frozenset({"previous"})

    def __init__(self, weight=1.0):
        self.weight = weight

    def __call__(self, ctx):
        before = ctx.frozen("previous", view=0).features  # [B, D], without gradient
        return (ctx.features - before).square().sum(1).mean()


def staying(base, weight=1.0):
    """The method `base`, whose phases on images have one more loss from session 1 on."""
    mine = FeaturesStay(weight)

    def phases(session):
        if session.id == 0:  # there is no "previous" yet
            return base.phases(session)
        return [replace(p, losses=[*p.losses, mine]) if p.inputs == "images" else p for p in base.phases(session)]

    return replace(base, name=f"{base.name}_stay", title=f"{base.title}, features stay", phases=phases)


if __name__ == "__main__":
    scenario = class_incremental(open_images("digits"), num_base_classes=4, classes_per_session=3)
    method = staying(ovor(epochs=2, vor_epochs=0, head={"type": "prototype"}), weight=2.0)
    settings = TrainingSettings(output_dir="runs/ovor_stay", backbone="demo", batch_size=64, augmentation="crop")
    trainer = ContinualTrainer(load_backbone("demo"), load_processor("demo"), method, scenario, settings)
    trainer.fit()
    trainer.finish()
