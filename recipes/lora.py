"""Plain LoRA on your images (Hu et al.: ICLR 2022): what happens when an adapter is trained on session after session.

    accelerate launch recipes/lora.py --config recipes/configs/lora/demo.yaml --output_dir runs/lora
    accelerate launch recipes/lora.py --config recipes/configs/lora/own_images.yaml --dataset ./my_photos

With a linear head it forgets; with a head in closed form, or trained in the first session alone (`--adapt_sessions first`), hardly.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.baselines import LoraSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: LoraSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   grow: a row of the head for each new class
    #   phase "train", `epochs` over the images:
    #       step of Adam on LoRA (q, k and v of every layer) and head: cross-entropy among the session's new classes
    #   under a head that fits itself (gaussian, prototype):
    #       images before and after the session -> a map by which the statistics of earlier classes follow the features that have moved
    #       end: the head is fitted to the statistics of all classes
    #   under `adapt_sessions: first`, from session 1 on: no phase of LoRA; the features stand still, and the head alone goes on
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # one phase, of LoRA and head on images
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen; LoRA beside its q, k and v
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, LoraSettings, "lora"))
