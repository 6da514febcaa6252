"""DualPrompt on your images (Wang et al.: ECCV 2022): rows that all images share, and one set of rows per session.

    accelerate launch recipes/dualprompt.py --config recipes/configs/dualprompt/demo.yaml --output_dir runs/dualprompt
    accelerate launch recipes/dualprompt.py --config recipes/configs/dualprompt/own_images.yaml --dataset ./my_photos

With `adapt_sessions: first`, as in these two files, the pool rests after session 0 and a closed-form head goes on alone.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.prompt_pools import DualPromptSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: DualPromptSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   grow: a row of the head for each new class, and one entry (rows and key) for the session; entries of earlier ones rest
    #   phase "train", `epochs` over the images, augmented:
    #       q = class token of the untouched backbone (a pass without gradient)
    #       rows before keys and values of the attention: shared ones in the first layers, the session's entry in the next
    #       loss = cross-entropy among the session's own classes + mean of 1 - cosine(q, the entry's key)
    #       step of Adam on shared rows, entry and head
    #   at prediction: the entry whose key is nearest to q, of all sessions so far
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # what is trained, by which losses and which optimizer
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen; the adapter goes inside
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, DualPromptSettings, "dualprompt"))
