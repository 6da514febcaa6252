"""Fixed simplex targets on your images (Yang et al.: ICLR 2023): the classifier stands before the first class comes, the features learn.

    accelerate launch recipes/etf.py --config recipes/configs/etf/demo.yaml --output_dir runs/etf
    accelerate launch recipes/etf.py --config recipes/configs/etf/own_images.yaml --dataset ./my_photos

Every class that may ever come has its vector from the start, all as far from each other as so many vectors can be. Old rows cannot drift,
and a new class finds its place free.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.etf import EtfSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: EtfSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   session 0: num_classes_total unit vectors with pairwise cosine -1 / (num_classes_total - 1); none of them ever moves
    #   grow: each new class gets the next vector
    #   features = backbone(image) of the session's images, computed once; from session 1 on, the mean features of earlier classes join them
    #   phase "align", `epochs` (later `session_epochs`) over the features:
    #       loss = weight / 2 * mean (cos(projector(feature), vector of its class) - 1)^2; from session 1 on every class weighs the same
    #       step of Adam on the projector
    #   end of the session: the mean feature of each of its classes is kept, and no image
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # one phase, of the projector on features
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen, and nothing is added to it: the adapter is the head alone
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, EtfSettings, "etf"))
