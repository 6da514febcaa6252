"""An adapter of a run of `device_runs`, loaded by peft alone in a process of its own: `adapter_case.py FOLDER ADAPTER`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from device_runs import vit
from peft import PeftModel
from tiny import images

import hf_cl  # noqa: F401 (registers the adapter types)


def total(model: torch.nn.Module) -> str:
    """Of the logits of some images, to the bit."""
    with torch.no_grad():
        return model.eval()(pixel_values=images(8)).logits.double().sum().item().hex()


if __name__ == "__main__":
    torch.manual_seed(0)
    print("TOTAL", total(PeftModel.from_pretrained(vit(Path(sys.argv[1])), sys.argv[2])))
