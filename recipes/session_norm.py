"""LayerNorm tuning on your images, the same norms for all of them or own ones for each domain (Liu et al.: arXiv 2406.09416).

    accelerate launch recipes/session_norm.py --config recipes/configs/session_norm/demo.yaml --output_dir runs/session_norm
    accelerate launch recipes/session_norm.py --config recipes/configs/session_norm/own_images.yaml --dataset ./my_photos

Norms by domain are for streams whose sessions come from different cameras, sites or styles: recipes/configs/session_norm/domains.yaml.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.session_norm import SessionNormSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: SessionNormSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   grow: a row of the head for each new class; with `conditioning: table` a scale and a shift of every norm for each new domain
    #   before training: by mean and deviation of the tokens at the first norm a linear rule learns which domain an image is of
    #   phase "train", `epochs` over the images, augmented:
    #       each image passes the norms of its domain, which the data say
    #       loss = cross-entropy among the session's own classes
    #       step of Adam on scales, shifts and head; norms of domains without an image in the batch rest
    #   test: the images of every session so far, each through the norms of the domain that the rule finds; then table, adapter, checkpoint
    method = settings.method()  # what is trained, by which losses and which optimizer
    scenario = open_scenario(settings)  # the sessions: which classes and domains arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen; the adapter goes inside
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, SessionNormSettings, "session_norm"))
