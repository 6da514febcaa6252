"""SLCA on your images: a slow learner with classifier alignment (Zhang et al.: ICCV 2023).

    accelerate launch recipes/slca.py --config recipes/configs/slca/demo.yaml --output_dir runs/slca
    accelerate launch recipes/slca.py --config recipes/configs/slca/own_images.yaml --dataset ./my_photos

The adapter learns slowly, so that features of old classes hardly move; their Gaussians then train the rows of all classes together.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.slca import SlcaSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: SlcaSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   grow: a row of the head for each new class
    #   phase "train", `epochs` over the images:
    #       step of SGD, LoRA at a tenth of the head's rate: cross-entropy among the session's new classes; old rows rest
    #   end: mean and covariance of the features of each new class join those of earlier sessions
    #       alignment of all rows: features are drawn from the Gaussians of all classes, and the head alone is trained on them
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # one phase, and a part that aligns the rows after it
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen; LoRA beside its q, k and v
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, SlcaSettings, "slca"))
