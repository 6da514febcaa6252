"""SaRA on your images: train the weights that matter least, and only those (Hu et al.: ICLR 2025).

    accelerate launch recipes/sara.py --config recipes/configs/sara/cifar100.yaml --output_dir runs/sara
    accelerate launch recipes/sara.py --config recipes/configs/sara/own_images.yaml --dataset ./my_photos

The smallest entries of each weight matrix are trained, under a term that keeps their matrix of low rank. At half of a session, and at the
start of every later one, entries that have grown past the threshold are frozen where they are: what earlier sessions learned stays.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.sara import SaraSettings
from hf_cl.probes import ActiveEntries
from hf_cl.run import launch, open_base, open_scenario


def main(settings: SaraSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   session 0: of each targeted weight matrix, the entries of smallest magnitude are chosen, once for the whole run
    #   grow: a row of the head for each new class
    #   under `sessions: protect`, from session 1 on: chosen entries that have left the threshold are frozen where they are
    #   `epochs` over the images:
    #       weight = base + differences at the chosen entries
    #       step of AdamW on differences and head: cross-entropy + `lambda_rank` * nuclear norm of the chosen entries' matrix
    #       decay acts on the values, not on the differences
    #       after `progressive_share` of the session's steps: entries that have left the threshold are frozen, the others go on
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # selection, rank term, progressive switch, decay of the values
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen: the adapter holds positions and differences
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer, probes=[ActiveEntries()])
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, SaraSettings, "sara"))
