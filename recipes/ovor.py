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
    method = settings.method()  # phases: prefix and head on images, then the head on features and outliers
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen throughout
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, OvorSettings, "ovor"))
