"""LoRA from a recurrent hypernetwork on your images (after Chandra et al.: arXiv 2209.07712): one small vector per session.

    accelerate launch recipes/hyper_lora.py --config recipes/configs/hyper_lora/demo.yaml --output_dir runs/hyper_lora
    accelerate launch recipes/hyper_lora.py --config recipes/configs/hyper_lora/own_images.yaml --dataset ./my_photos

The network is as large as three plain LoRAs of its rank; with one or two sessions take recipes/lora.py.
"""

import sys

from hf_cl import ContinualTrainer
from hf_cl.methods.hyper_lora import HyperLoraSettings
from hf_cl.run import launch, open_base, open_scenario


def main(settings: HyperLoraSettings) -> None:
    # What the trainer does with the method, session after session:
    #
    #   grow: a row of the head for each new class, and an embedding for the session; those of earlier sessions rest
    #   phase "train", `epochs` over the images, augmented:
    #       LoRA factors of all layers = recurrent network(embedding of the session, layer after layer)
    #       loss = cross-entropy among the session's own classes
    #              + `beta` times how far the factors of earlier sessions have moved since this one began
    #       step of Adam on the network, the newest embedding and the head, whose old rows are put back
    #   the mean query of each class, by which an image finds its session at test
    #   test: the images of every session so far, each among the classes of the session found for it; then table, adapter, checkpoint
    method = settings.method()  # what is trained, by which losses and which optimizer
    scenario = open_scenario(settings)  # the sessions: which classes arrive when
    backbone, processor, tokenizer = open_base(settings, method)  # frozen; the adapter goes inside
    trainer = ContinualTrainer(backbone, processor, method, scenario, settings, tokenizer=tokenizer)
    trainer.fit()
    trainer.finish()  # report and model card; with --push_to_hub, on the Hub


if __name__ == "__main__":
    sys.exit(launch(main, HyperLoraSettings, "hyper_lora"))
