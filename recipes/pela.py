"""PELA on your images: a base made smaller, its factors trained to give what the original gives (Guo et al.: CVPR 2024).

    accelerate launch recipes/pela.py --config recipes/configs/pela/imagenet.yaml --dataset ./imagenet --output_dir runs/pela
    accelerate launch recipes/pela.py --config recipes/configs/pela/own_images.yaml --dataset ./my_photos --output_dir runs/pela

Afterwards `hf-cl compress runs/pela --output_dir small` writes the smaller base, and any method trains on `--backbone small`.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.pela import PelaSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: PelaSettings) -> None:
    # What the trainer does with the method:
    #
    #   session 0: in the place of each weight of attention and MLP, up down, the best factors of their rank; the original stays beside them
    #   `epochs` over the images:
    #       teacher: the original, factors switched off, without gradient
    #       student: up (down x) in the place of each weight
    #       step of AdamW on factors, biases and head: cross-entropy (task)
    #           + feature_weight * mean over embedding and blocks of the squared distance to the teacher's
    #           + deviation_weight * mean over matrices of (max |up down - W| - deviation_eps)^2
    #   after each session the head is fitted to all classes so far
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # ratio, losses and their weights
    scenario = open_scenario(settings)  # the sessions: one, where all images are there
    backbone, processor, tokenizer = open_base(settings, method)  # frozen: the adapter holds the factors
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, PelaSettings, "pela"))
