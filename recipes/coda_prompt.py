"""CODA-Prompt on your images (Smith et al.: CVPR 2023): prompts that are weighted sums of components.

    accelerate launch recipes/coda_prompt.py --config recipes/configs/coda_prompt/demo.yaml --output_dir runs/coda_prompt
    accelerate launch recipes/coda_prompt.py --config recipes/configs/coda_prompt/own_images.yaml --dataset ./my_photos

With `adapt_sessions: first`, as in these two files, the pool rests after session 0 and a closed-form head goes on alone.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.prompt_pools import CodaPromptSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: CodaPromptSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   grow: a row of the head for each new class, and `components_per_session` components, orthogonal to those before, which rest
    #   phase "train", `epochs` over the images, augmented:
    #       q = class token of the untouched backbone (a pass without gradient)
    #       weight of a component = cosine(q * its attention, its key); the weighted sum of all stands before keys and values
    #       loss = cross-entropy among the session's own classes (+ `orthogonality` times the penalty)
    #       step of Adam on the newest components and the head
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # what is trained, by which losses and which optimizer
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen; the adapter goes inside
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, CodaPromptSettings, "coda_prompt"))
