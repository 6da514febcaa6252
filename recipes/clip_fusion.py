"""Class names and pictures together on your images, on a CLIP or SigLIP model that stays as it is.

    accelerate launch recipes/clip_fusion.py --config recipes/configs/clip_fusion/demo.yaml --output_dir runs/clip_fusion
    accelerate launch recipes/clip_fusion.py --config recipes/configs/clip_fusion/own_images.yaml --dataset ./my_photos

A Gaussian per class judges the picture, the text tower judges by the class's name, and both opinions are added.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.clip_fusion import ClipFusionSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: ClipFusionSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   session 0: the text tower reads the names of all classes once, and is not needed afterwards
    #   grow: room for each new class
    #   no phase: nothing is trained
    #   end: count, mean and scatter of the pooled image features of each new class join those of earlier sessions
    #       score of a class = its log density + cosine(image embedding, text embedding of its name), each standardised over the classes
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # no phases; a Gaussian head that hears the class names
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # the image tower alone, frozen
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, ClipFusionSettings, "clip_fusion"))
