"""CoACT on your images: consistency-guided asynchronous contrastive tuning (Roy et al.: TMLR 2025).

    accelerate launch recipes/coact.py --config recipes/configs/coact/cifar100.yaml --output_dir runs/coact
    accelerate launch recipes/coact.py --config recipes/configs/coact/own_images.yaml --dataset ./my_photos

Session 0 teaches LoRA, and from some epoch on the last blocks, by cross-entropy and by contrast with a slower teacher's view of the same
images. A later session begins with the mean embedding of each new class's few shots as its row; then rows or LoRA may train a little, held
to what the model of session 0 says.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.coact import CoactSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: CoactSettings) -> None:
    method = settings.method()  # phases: LoRA, then the unfrozen blocks too; later sessions: prototypes, then what the objective says
    scenario = open_scenario(settings)  # few shots in every session, or in all but the first
    backbone, processor, tokenizer = open_base(settings, method)  # one; student, teacher and pre-trained model are its roles
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, CoactSettings, "coact"))
