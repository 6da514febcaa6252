"""Nearest class mean on your images: the number that every method has to beat (SimpleCIL, Zhou et al.: IJCV 2024).

    accelerate launch recipes/nearest_class_mean.py --config recipes/configs/nearest_class_mean/demo.yaml --output_dir runs/means
    accelerate launch recipes/nearest_class_mean.py --config recipes/configs/nearest_class_mean/own_images.yaml --dataset ./my_photos

Nothing is trained, and nothing is forgotten: the mean feature of a class's images does not change when other classes come.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.baselines import NearestClassMeanSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: NearestClassMeanSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   grow: a row of the head for each new class
    #   no phase: nothing is trained
    #   end: features = backbone(image) of the session's images; row of a class = their mean
    #       score of a class = the cosine of feature and row, scaled
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # no phases; a prototype head
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen, and nothing is added to it: the adapter is the head alone
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, NearestClassMeanSettings, "nearest_class_mean"))
