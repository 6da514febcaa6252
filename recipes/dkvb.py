"""The discrete key-value bottleneck on your images (Träuble et al.: ICML 2023): frozen keys choose which values are trained.

    accelerate launch recipes/dkvb.py --config recipes/configs/dkvb/demo.yaml --output_dir runs/dkvb
    accelerate launch recipes/dkvb.py --config recipes/configs/dkvb/own_images.yaml --dataset ./my_photos

Two images that look unlike choose other keys, so that a new class moves little of what an old one reads.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.dkvb import DkvbSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: DkvbSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   session 0: keys of each codebook are drawn from features of its images and frozen; their values begin at zero
    #   grow: a column of the values for each new class
    #   features = backbone(image) of the session's images, computed once
    #   phase "train", `epochs` over the features:
    #       each codebook projects the feature and takes the value of the nearest key; scores = the mean of these values
    #       step of plain SGD: values of chosen keys move, all others stay
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # one phase, of the values on features
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen, and nothing is added to it: the adapter is the head alone
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, DkvbSettings, "dkvb"))
