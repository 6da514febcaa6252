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
    # What the trainer does with the method, session after session:
    #
    #   grow: a row of the head for each new class
    #   session 0:
    #       rows of its classes begin as the mean embedding of their shots
    #       phase "lora" until `unfreeze_epoch`, then phase "unfrozen", in which the blocks from `unfreeze_from` on train too, slowly:
    #           student = backbone with LoRA (and copies of the unfrozen blocks); teacher = its running average, without LoRA
    #           step of SGD: cross-entropy + contrast of the student's first view with the teacher's second view of the same images
    #           teacher = `ema_decay` * teacher + (1 - `ema_decay`) * student
    #   a later session:
    #       rows of the new classes = the mean embedding of their shots
    #       `incremental_epochs` of what `incremental_train` names: cross-entropy + contrast with the teacher of session 0
    #           + consistency: the base classes' scores stay those of the model of session 0
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # phases: LoRA, then the unfrozen blocks too; later sessions: prototypes, then what the objective says
    scenario = open_scenario(settings)  # few shots in every session, or in all but the first
    backbone, processor, tokenizer = open_base(settings, method)  # one; student, teacher and pre-trained model are its roles
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, CoactSettings, "coact"))
