"""A method by the names of its parts: adapter, head, losses, gradient rule, further parts.

    accelerate launch recipes/compose.py --config recipes/configs/compose/demo.yaml --output_dir runs/compose
    accelerate launch recipes/compose.py --config recipes/configs/compose/own_images.yaml --dataset ./my_photos

Change one of them and compare: --losses '{zero_shot_kl: {weight: 0.1}}', --rule sam, --adapter one_prompt, --head '{type: cosine}'.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.compose import ComposeSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: ComposeSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   grow: a row of the head for each new class, and what the adapter has per session
    #   one phase, `epochs` over the images:
    #       loss = `main` + the weighted `losses`, each from its first session on
    #       `rule` makes the step's gradient of it: the plain one, or that of SAM, GLAD, ProGrad, ...
    #       step of `optimizer` on adapter and head
    #   end: the `parts` do what they do at a session's end; a head that fits itself is fitted
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # adapter, head, losses, rule and parts by their names
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen, or what the adapter makes of it
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, ComposeSettings, "compose"))
