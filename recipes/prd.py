"""PRD on your images: prototype-sample relation distillation (Asadi et al.: ICML 2023).

    accelerate launch recipes/prd.py --config recipes/configs/prd/demo.yaml --output_dir runs/prd
    accelerate launch recipes/prd.py --config recipes/configs/prd/own_images.yaml --dataset ./my_photos

No image is kept: the prototypes of earlier classes follow the features by what new images say of them.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.prd import PrdSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: PrdSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   grow: a row of the head for each new class, which begins as the mean embedding of its images
    #   phase "train", `epochs` over the images, two augmented views of each through the model at once:
    #       step of SGD: supervised contrast of the views, through a projector that is not saved
    #                  + each new row towards the embeddings of its class (the embeddings are not moved)
    #                  + from session 1 on: distributions over the rows of each earlier session as the previous model had them
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # one phase; the relation term keeps the earlier rows as the session found them
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen; LoRA beside its q, k and v
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, PrdSettings, "prd"))
