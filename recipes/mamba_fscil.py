"""Mamba-FSCIL on your images (Li et al., arXiv 2407.06136): a scan over patches onto fixed targets, and a branch for new classes.

    accelerate launch recipes/mamba_fscil.py --config recipes/configs/mamba_fscil/demo.yaml --output_dir runs/mamba_fscil
    accelerate launch recipes/mamba_fscil.py --config recipes/configs/mamba_fscil/own_images.yaml --dataset ./my_photos

What session 0 has learned rests afterwards. A second branch, silent until then, learns the few shots of new classes.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.mamba_fscil import MambaFscilSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: MambaFscilSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   session 0: fixed unit vectors with equal angles, one for each class that will come
    #   maps = patch tokens of backbone(image), averaged to a small grid, computed once a session
    #   phase "main branch", `epochs` over the maps of session 0:
    #       f = main(map) + R mean(map); main: an MLP at each place, a selective scan in four orders, their mean over places
    #       loss = `weight` / 2 * mean (cos(f, vector of the class) - 1)^2, step of Adam
    #   phase "new branch", `session_epochs` in every later session, on its shots and the mean map of each earlier class:
    #       f = main(map) + R mean(map) + new(map), of which new alone trains; every class of a batch weighs the same
    #       loss += `suppress_base` * size of new's gate on classes of session 0 - `suppress_novel` * that on others
    #       loss += `separate_new` * likeness of what steers the scan on the two kinds
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # one phase a session, of a branch of the projector
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen, and nothing is added to it: the adapter is the head alone
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, MambaFscilSettings, "mamba_fscil"))
