"""Dynamic sparse training on your images: sparse differences whose positions are rewired as they train (Yildirim et al.: CPAL 2024).

    accelerate launch recipes/dst.py --config recipes/configs/dst/cifar100.yaml --output_dir runs/dst
    accelerate launch recipes/dst.py --config recipes/configs/dst/own_images.yaml --dataset ./my_photos

Each session trains a few entries of the weights of its own. On the way the least useful are dropped and others grown; afterwards they are
frozen, and later sessions take what is left.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.dst import DstSettings
from hf_cl.probes import IsolatedAccuracy
from hf_cl.run import launch, open_base, open_scenario


def main(settings: DstSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   grow: the entries so far are kept as they are, and `density` of the weights drawn anew, outside of all that are taken
    #   `epochs` over the images:
    #       weight = base + differences of all sessions
    #       step of Adam on this session's differences and on the rows of its classes: cross-entropy among these
    #       every `update_every` steps, until `stop_fraction` of them:
    #           the smallest differences are dropped, `death_rate` of them at first and ever fewer
    #           as many are grown where the dense gradient of this step is largest, and start at 0
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # densities, rewiring, old rows at rest
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen: the adapter holds positions and differences
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer, probes=[IsolatedAccuracy()])
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, DstSettings, "dst"))
