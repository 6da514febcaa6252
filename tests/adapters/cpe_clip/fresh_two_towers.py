"""Run in a process of its own: adapters saved by another process must give its logits to the bit, by every loading route."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import two_towers
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

import hf_cl  # noqa: F401 (registers the adapter types)
from hf_cl.backbones import ClipClassifier

torch.set_num_threads(1)


def check(model, config, folder: Path, route: str, tolerance: float = 0.0) -> None:
    with torch.no_grad():
        found = ClipClassifier(model, config, AutoTokenizer.from_pretrained(folder)).eval()(two_towers.images())[1]
    want = load_file(folder / "reference.safetensors")["want"]
    assert (found - want).abs().max() <= tolerance, f"{folder.name}, {route}: {(found - want).abs().max():.1e}"


for family in two_towers.FAMILIES:
    folder = Path(sys.argv[1]) / family

    def base(family=family, folder=folder):
        return AutoModel.from_pretrained(folder / "base").eval() if family in ("clip", "siglip") else two_towers.base(family)

    loaded = PeftModel.from_pretrained(base(), folder).eval()
    config = loaded.peft_config["default"]
    check(loaded.get_base_model(), config, folder, "PeftModel.from_pretrained")
    sparing = PeftModel.from_pretrained(base(), folder, low_cpu_mem_usage=True).eval()
    # here and by load_adapter the tensors are equal, but lie in memory as in the file: products on odd alignments differ in the last bit
    check(sparing.get_base_model(), sparing.peft_config["default"], folder, "low_cpu_mem_usage", tolerance=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), sparing.state_dict().values(), strict=True))
    if family in ("clip", "siglip"):
        model = base()
        model.load_adapter(str(folder), adapter_name="mine")
        check(model, model.peft_config["mine"], folder, "load_adapter", tolerance=1e-4)
        saved = load_file(folder / "adapter_model.safetensors")
        found = {name.replace(".mine", ""): tensor for name, tensor in model.state_dict().items() if "cpe_clip" in name}
        assert all(torch.equal(found[name.removeprefix("base_model.model.")], tensor) for name, tensor in saved.items())
        model.delete_adapter("mine")
        assert not [name for name, _ in model.named_parameters() if "cpe_clip" in name]
