"""L2P on your images (Wang et al.: CVPR 2022): each image gets the five prompts of a pool whose keys are nearest to its query.

    accelerate launch recipes/l2p.py --config recipes/configs/l2p/demo.yaml --output_dir runs/l2p
    accelerate launch recipes/l2p.py --config recipes/configs/l2p/own_images.yaml --dataset ./my_photos

With `adapt_sessions: first`, as in these two files, the pool rests after session 0 and a closed-form head goes on alone.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.prompt_pools import L2PSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: L2PSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   session 0: 30 prompts and their keys are drawn, U[0, 1); later sessions add none
    #   grow: a row of the head for each new class
    #   phase "train", `epochs` over the images, augmented:
    #       q = class token of the untouched backbone (a pass without gradient)
    #       the five prompts whose keys have the largest cosine with q; their rows stand before keys and values of the attention
    #       loss = cross-entropy among the session's own classes + mean of 1 - cosine(q, chosen keys)
    #       step of Adam on pool, keys and head
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # what is trained, by which losses and which optimizer
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen; the adapter goes inside
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, L2PSettings, "l2p"))
