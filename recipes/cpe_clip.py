"""CPE-CLIP on your images: prompts in both towers of CLIP, new classes from a handful of images each (D'Alessandro et al.: ICCVW 2023).

    accelerate launch recipes/cpe_clip.py --config recipes/configs/cpe_clip/cifar100.yaml --output_dir runs/cpe
    accelerate launch recipes/cpe_clip.py --config recipes/configs/cpe_clip/own_images.yaml --dataset ./my_photos

The class names are the head: a new class is a new text. In every session the prompts learn to tell its classes apart; later sessions
move them less, by the share of new classes among all seen so far.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.cpe_clip import CpeClipSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: CpeClipSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   grow: a name more for each new class; no tensor changes, its text is its row
    #   scale = 1 in session 0; later new classes / classes seen so far, so that a large past is moved little (`regularization`)
    #   `base_epochs` or `session_epochs` over the images:
    #       prompts stand behind BOS in every layer of the text tower, and through one linear layer behind the patches of the vision tower
    #       scores = 100 * cosine(image embedding, text embedding of each of the session's classes)
    #       step of SGD on prompts and the linear layer: cross-entropy among these classes, its gradient times scale
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # prompts, loss among the new classes, gradients scaled per session
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # both towers, frozen throughout
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, CpeClipSettings, "cpe_clip"))
