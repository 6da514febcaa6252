"""R-AMT on your images: weights of the base are kept or set to zero, and nothing else (Zheng et al.: ICCV 2023).

    accelerate launch recipes/mask_tuning.py --config recipes/configs/mask_tuning/base_to_novel.yaml --dataset ./caltech101
    accelerate launch recipes/mask_tuning.py --config recipes/configs/mask_tuning/own_images.yaml --dataset ./my_photos

Every weight of the vision tower's attention has a score and is used where that lies above a threshold. What is saved is a bit per weight;
merged, nothing is left but the base with some of its entries zero.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.mask_tuning import MaskTuningSettings
from hf_cl.probes import MaskedShare
from hf_cl.run import launch, open_base, open_scenario


def main(settings: MaskTuningSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   grow: a name (or a row of the head) more for each new class; under `sessions: stack` what is masked stays so, scores start anew
    #   `epochs` over the images:
    #       weight = base where its score > `threshold`, else 0
    #       r = gradient of the distance to the zero-shot predictions
    #       g = gradient of cross-entropy + `mask_norm` * norm of the scores, on the same batch
    #       entries of g that point against r are dropped at random, the likelier the larger r is beside g
    #       step of Adam on the scores
    #   test: the images of every session so far, among all classes so far; then table, adapter (bits), checkpoint (scores)
    method = settings.method()  # mask, losses, gradient dropout
    scenario = open_scenario(settings)  # the sessions, or one session and tests on classes it does not teach
    backbone, processor, tokenizer = open_base(settings, method)  # frozen throughout
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer, probes=[MaskedShare()])
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, MaskTuningSettings, "mask_tuning"))
