"""A GLAD adapter as plain LoRA, for people without hf_cl."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file

from hf_cl.adapters.bases import OPEN_CLIP, classifier_path, family_of
from hf_cl.adapters.glad.config import GladConfig


def export_lora(model: PeftModel, folder: str | Path, adapter_name: str = "default") -> None:
    """Write the adapter as a `LORA` adapter: `PeftModel.from_pretrained(base, folder)` then needs peft alone.

    Class names, head settings and rule stay behind: say them in the model card. With a classifier as head, the base has to be loaded with
    as many labels as the adapter has classes; a temperature is inside its rows.

    Raises ValueError for an adapter of another type, and on open_clip, whose packed attention plain LoRA does not split.
    """
    config = model.peft_config[adapter_name]
    if not isinstance(config, GladConfig):
        raise ValueError(f"Only GLAD adapters are LoRA underneath; {adapter_name!r} is {config.peft_type}.")
    if family_of(model.get_base_model()) == OPEN_CLIP:
        raise ValueError(
            "open_clip packs q, k and v, so that plain LoRA cannot hold this adapter. Share it as GLAD, or merge it into the base."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = get_peft_model_state_dict(model, adapter_name=adapter_name)
    if config.temperature is not None:
        rows = f"base_model.model.{classifier_path(model.get_base_model())}."  # under a text head nothing is called so
        tensors = {name: t / config.temperature if name.startswith(rows) else t for name, t in tensors.items()}
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors", metadata={"format": "pt"}
    )
    plain = config.to_lora_config()
    plain.inference_mode = True
    plain.save_pretrained(str(folder))
