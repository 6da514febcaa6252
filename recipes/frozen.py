"""A head in closed form on your images: a Gaussian per class on the untouched backbone, or ridge regression, FeTrIL, class means.

    accelerate launch recipes/frozen.py --config recipes/configs/frozen/demo.yaml --output_dir runs/frozen
    accelerate launch recipes/frozen.py --config recipes/configs/frozen/own_images.yaml --dataset ./my_photos

Statistics of old classes are kept instead of their images, so that the head of all sessions is the one of a single session with all images.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.frozen import FrozenSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: FrozenSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   grow: room for each new class
    #   no phase: nothing is trained
    #   end: features = backbone(image) of the session's images; count, mean and scatter of each class join those of earlier sessions
    #       the head is fitted to the statistics of all classes in closed form; `gaussian`:
    #       score of a class = log density of the feature under its Gaussian, whose covariance is shrunk as images held back want it
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # no phases; a head that fits itself
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen, and nothing is added to it: the adapter is the head alone
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, FrozenSettings, "frozen"))
