"""Run in a process of its own: an adapter of a CLIP must give the logits of the process that trained it, to the bit."""

from __future__ import annotations

import sys

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, CLIPModel

import hf_cl  # noqa: F401 (registers the adapter types)

torch.set_num_threads(1)
base, adapter, reference, towers = sys.argv[1:]
kind = {"both": CLIPModel, "image": AutoModelForImageClassification}[towers]
saved = load_file(reference)
for sparing in (False, True):
    model = PeftModel.from_pretrained(kind.from_pretrained(base), adapter, low_cpu_mem_usage=sparing).eval()
    with torch.no_grad():
        found = model(pixel_values=saved["pixels"]).logits
    tolerance = 1e-4 if sparing else 0.0  # tensors lie in memory as in the file there: products on odd alignments differ in the last bit
    assert (found - saved["want"]).abs().max() <= tolerance
