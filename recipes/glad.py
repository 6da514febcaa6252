"""GLAD on your images: LoRA on both towers of CLIP, its gradient steered towards flat regions (Peng et al.: arXiv 2507.13089).

    accelerate launch recipes/glad.py --config recipes/configs/glad/base_to_novel.yaml --dataset ./caltech101 --output_dir runs/glad
    accelerate launch recipes/glad.py --config recipes/configs/glad/own_images.yaml --dataset ./my_photos

The class names are the head. Each step takes two gradients, here and at the worst point nearby, and follows their mixture: LoRA fits the
classes that are taught and keeps what CLIP knows of others.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.glad import GladSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: GladSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   grow: a name more for each new class; no tensor changes, its text is its row
    #   `iterations` steps over the images:
    #       scores = 100 * cosine(image embedding, text embedding), LoRA on q, k and v of both towers
    #       g = gradient of the cross-entropy at w
    #       h = gradient of the same batch at w + `rho` * g / |g|, the worst point nearby
    #       step of AdamW on LoRA along (1 - `lam`) * g + `lam` * h
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # LoRA, loss among all classes seen, the rule that the adapter's config records
    scenario = open_scenario(settings)  # the sessions, or one session and tests on classes it does not teach
    backbone, processor, tokenizer = open_base(settings, method)  # both towers, frozen throughout
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, GladSettings, "glad"))
