"""OVOR on your images: OnePrompt with Virtual Outlier Regularization (Huang, Chen, Hsu: ICLR 2024).

    accelerate launch recipes/ovor.py --config recipes/configs/ovor/cifar100.yaml --output_dir runs/ovor
    accelerate launch recipes/ovor.py --config recipes/configs/ovor/own_images.yaml --dataset ./my_photos

In every session one set of prefix rows in the first attention layers and the head learn the new classes from images; then the prefix rests,
and the head alone is trained on their features against virtual outliers, drawn where the cloud of features ends.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.ovor import OvorSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: OvorSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   grow: a row of the head for each new class; the prefix rows and the old rows stay as they are
    #   phase "train", `epochs` over the images:
    #       features = backbone(image), with prefix rows as further keys and values in the first attention layers
    #       step of Adam on prefix and head: cross-entropy among the session's new classes
    #   phase "vor", `vor_epochs` over the features of these images, computed once per epoch; the prefix rests:
    #       outliers = draws around features at the edge of their class, far from the others
    #       step on the head: cross-entropy + `outlier_weight` * hinges on the energy, low for images and high for outliers
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # phases: prefix and head on images, then the head on features and outliers
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen throughout
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, OvorSettings, "ovor"))
