"""MVP on a stream of your images (Moon et al.: ICCV 2023): prompts and a mask of the logits, chosen image by image.

    accelerate launch recipes/mvp.py --config recipes/configs/mvp/demo.yaml --output_dir runs/mvp
    accelerate launch recipes/mvp.py --config recipes/configs/mvp/own_images.yaml --dataset ./my_photos

Each image comes once, in three steps of the optimizer; no session has to end before its classes are known.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.mvp import MvpSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: MvpSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   grow: a row of the head and of the mask for each class that comes new; the pool goes on
    #   phase "train", each image once, in the order of the stream:
    #       q = class token after the last block but one, of the untouched backbone
    #       the entry with the least distance(q, key) * (how often it was chosen + 1): its prompts join three blocks, its mask the logits
    #       loss = cross-entropy of the classes that have come, of features over their distance to the class's row,
    #              more of it where an image's gradient disagrees with the batch's
    #              + a contrast that draws keys to their images and apart from each other
    #       step of Adam on pool, mask and head; the choices of the step are counted
    #   test: the images of every class so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # what is trained, by which losses and which optimizer
    scenario = open_scenario(settings)  # the sessions: which images arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen; the adapter goes inside
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, MvpSettings, "mvp"))
