"""The mean of several LoRAs: that of their changes, best cut to a rank; what has no mean is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from hf_cl.hub.mean_adapter import mean_change, write_mean

NUMBERS = np.load(Path(__file__).parents[1] / "reference" / "ensemble" / "ensemble.npz")


def reference(name):
    return torch.from_numpy(NUMBERS[name])


def test_the_mean_change_and_its_best_cut_are_those_of_the_reference():
    changes = [(b, a, 1.0) for b, a in zip(reference("lora_B"), reference("lora_A"), strict=True)]
    b, a, kept = mean_change(changes, 5)
    torch.testing.assert_close(b @ a, reference("mean_delta"), atol=1e-12, rtol=0)
    torch.testing.assert_close((b.norm(dim=0) * a.norm(dim=1)).sort(descending=True)[0], reference("singular_values"), atol=1e-12, rtol=0)
    assert kept == pytest.approx(1)
    b, a, kept = mean_change(changes, 2)
    torch.testing.assert_close(b @ a, reference("truncated_delta"), atol=1e-12, rtol=0)
    assert b.shape == (6, 2) and a.shape == (2, 5) and kept == pytest.approx(float(NUMBERS["kept_energy"]), abs=1e-12)
    factors = reference("lora_B").mean(0) @ reference("lora_A").mean(0)
    assert (factors - reference("mean_delta")).abs().max() > 1  # the factors have no mean


def write(folder, seed, base_folder, kind="GLAD", **options):
    model = get_peft_model(
        tiny.base("vit"), tiny.ADAPTERS[kind](**{"class_names": list(tiny.NAMES[:4]), "head": {"type": "linear"}, **options})
    )
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model.peft_config["default"].base_model_name_or_path = str(base_folder)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def test_a_mean_that_has_the_rank_is_exact(tmp_path, base_folder):
    """Members that share A have a mean of the same rank: the merged weights are the members' mean, scales of their own included."""
    first, second = (write(tmp_path / str(seed), seed, base_folder, lora_alpha=seed + 1) for seed in range(2))
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (first, second))
    shared = {name: ours[name] if "lora_A" in name else tensor for name, tensor in theirs.items()}
    save_file(shared, second / "adapter_model.safetensors", metadata={"format": "pt"})
    kept = write_mean([first, second], tmp_path / "mean")
    assert len(kept) == 18 and all(value == pytest.approx(1, abs=1e-6) for value in kept.values())
    merged = [PeftModel.from_pretrained(tiny.base("vit"), str(folder)) for folder in (first, second, tmp_path / "mean")]
    weights = [dict(model.merge_and_unload().named_parameters()) for model in merged]
    for name in weights[0]:
        torch.testing.assert_close(weights[2][name], (weights[0][name] + weights[1][name]) / 2, atol=1e-5, rtol=1e-5)


def test_what_has_no_mean_is_said_at_once(tmp_path, base_folder):
    plain = write(tmp_path / "plain", 0, base_folder)
    cosine = write(tmp_path / "cosine", 1, base_folder, head={"type": "cosine"})
    prompts = write(tmp_path / "prompts", 1, base_folder, "ONE_PROMPT")
    ranks = shutil.copytree(plain, tmp_path / "ranks")
    config = json.loads((ranks / "adapter_config.json").read_text())
    (ranks / "adapter_config.json").write_text(json.dumps(config | {"rank_pattern": {"q_proj": 2}}))
    with pytest.raises(ValueError) as error:
        write_mean([plain, cosine, prompts, ranks], tmp_path / "mean")
    lines = str(error.value).splitlines()
    assert lines[0] == f"{cosine} has a head of type cosine; the mean of rows means something under linear, prototype, text."
    assert lines[1].startswith(f"{prompts} is of type ONE_PROMPT: the mean of its tensors is not the mean of what it does")
    assert lines[2] == f"{ranks} has ranks or scales of its own for some layers." and not (tmp_path / "mean").exists()
