"""Late interaction on your images: class vectors that look for their best patches (ColBERT's score: SIGIR 2020; projections: 2510.12327).

    accelerate launch recipes/maxsim.py --config recipes/configs/maxsim/demo.yaml --output_dir runs/maxsim
    accelerate launch recipes/maxsim.py --config recipes/configs/maxsim/own_images.yaml --dataset ./my_photos

A part that tells a class apart counts wherever it lies, where the mean of all patches would drown it.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.maxsim import MaxsimSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: MaxsimSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   grow: some vectors for each new class
    #   maps = patch tokens of backbone(image) of the session's images, computed once
    #   the new classes' vectors are placed: at what sets a class's mean token apart from the others', and at k-means centres near it
    #   phase "train", `epochs` over the maps of session 0; after it "vectors", `session_epochs`, which leaves projection and scale alone:
    #       score = mean over a class's vectors of the best cosine with a projected token
    #       loss = cross-entropy of scale * score among the classes of the session
    #       step of Adam; the vectors of earlier classes are put back
    #   test: the images of every session so far, among all classes so far; then table, adapter, checkpoint
    method = settings.method()  # one phase a session, of the head on maps of tokens
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen, and nothing is added to it: the adapter is the head alone
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, MaxsimSettings, "maxsim"))
