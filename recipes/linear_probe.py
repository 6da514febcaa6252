"""A linear probe on your images: the head alone is trained, on features of the untouched backbone.

    accelerate launch recipes/linear_probe.py --config recipes/configs/linear_probe/demo.yaml --output_dir runs/linear_probe
    accelerate launch recipes/linear_probe.py --config recipes/configs/linear_probe/own_images.yaml --dataset ./my_photos

What it forgets is forgotten by the head: rows of old classes are no longer compared with images of theirs.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.baselines import LinearProbeSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: LinearProbeSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   grow: a row of the head for each new class
    #   features = backbone(image) of the session's images, computed once
    #   phase "probe", `epochs` over the features:
    #       step of Adam on the head: cross-entropy among the session's new classes
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # one phase, of the head on features
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen, and nothing is added to it: the adapter is the head alone
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, LinearProbeSettings, "linear_probe"))
