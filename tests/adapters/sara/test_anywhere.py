"""SARA on models of peft's whole world, and what it refuses by name."""

from __future__ import annotations

import open_clip
import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel, get_peft_model, inject_adapter_in_model
from tiny import base
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from hf_cl.adapters import SaraConfig


@torch.no_grad()
def perturb(model) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        if "sara_" in name:
            p.normal_(0, 0.05, generator=generator)


def round_trip(build, run, config: SaraConfig, folder, tolerance: float = 0.0) -> PeftModel:
    """Identity, training, saving, loading and merging on one kind of model; returns the trained model."""
    plain = run(build())
    model = get_peft_model(build(), config).eval()
    torch.testing.assert_close(run(model), plain, atol=tolerance, rtol=0)
    run(model).square().mean().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None and p.grad.any() for p in trained)
    perturb(model)
    want = run(model)
    assert not torch.equal(want, plain)
    model.save_pretrained(folder)
    again = PeftModel.from_pretrained(build(), folder).eval()
    torch.testing.assert_close(run(again), want, atol=tolerance, rtol=0)
    torch.testing.assert_close(run(again.merge_and_unload()), want, atol=1e-6, rtol=1e-5)
    return model


def seeded(make):
    def build():
        torch.manual_seed(0)
        return make().eval()

    return build


def test_diffusers_unet(tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="the extra `test` installs diffusers")

    def unet():
        return diffusers.UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=8,
        )

    generator = torch.Generator().manual_seed(1)
    sample, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 16, generator=generator)

    def run(model):
        return model(sample, torch.tensor([3, 7]), encoder_hidden_states=text).sample

    targets = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "conv1", "conv2", "norm1", "time_emb_proj"]
    config = SaraConfig(target_modules=targets, density=0.1, include_bias_norm=True, block_rows=32)
    model = round_trip(seeded(unet), run, config, tmp_path)
    kinds = {type(layer.get_base_layer()) for _, layer in model.base_model.sara_layers()}
    assert kinds == {nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm}
    # the way diffusers itself adds an adapter and weighs it
    pipeline_unet = seeded(unet)()
    pipeline_unet.add_adapter(SaraConfig(target_modules=["to_q"], density=0.1))
    perturb(pipeline_unet)
    full = run(pipeline_unet)
    pipeline_unet.set_adapters("default", weights=0.0)
    assert torch.equal(run(pipeline_unet), run(seeded(unet)()))
    pipeline_unet.set_adapters("default", weights=1.0)
    assert torch.equal(run(pipeline_unet), full)


def test_language_model(tmp_path):
    def llama():
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        return LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes))

    tokens = torch.arange(12).view(2, 6)
    config = SaraConfig(target_modules="all-linear", threshold=5e-3)
    model = round_trip(seeded(llama), lambda m: m(input_ids=tokens).logits, config, tmp_path)
    assert len(list(model.base_model.sara_layers())) == 14
    assert model.peft_config["default"].base_signature == {"model_type": "llama", "hidden_size": 32, "depth": 2}
    assert model.eval().generate(input_ids=tokens[:, :3], max_new_tokens=2, do_sample=False).shape == (2, 5)


def test_a_module_that_is_not_linear_is_refused():
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match=r"adapts nn.Linear, nn.Conv2d and norms; 'transformer\.h\.0\.attn\.c_attn' is a Conv1D"):
        get_peft_model(gpt2, SaraConfig(target_modules=["c_attn"]))


def test_custom_network_with_convolutions(tmp_path):
    class Convolutions(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv0 = nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1, bias=False)
            self.conv1 = nn.Conv2d(8, 8, 3, groups=4, padding_mode="circular", padding=1)
            self.norm = nn.GroupNorm(2, 8)
            self.out = nn.Linear(8 * 16, 5, bias=False)

        def forward(self, x):
            return self.out(self.norm(self.conv1(F.relu(self.conv0(x)))).flatten(1))

    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    config = SaraConfig(target_modules=["conv0", "conv1", "norm", "out"], density=0.2, include_bias_norm=True)
    model = round_trip(seeded(Convolutions), lambda m: m(x), config, tmp_path)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(x).float().square().mean()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def open_clip_model():
    return open_clip.model.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 8},
        text_cfg={"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 2},
    )


def test_open_clip_both_towers(tmp_path):
    generator = torch.Generator().manual_seed(2)
    image, text = torch.randn(2, 3, 32, 32, generator=generator), torch.randint(1, 64, (2, 8), generator=generator)

    def run(model):
        return torch.cat([model.encode_image(image), model.encode_text(text)])

    # nn.MultiheadAttention takes another kernel where its weights are frozen
    model = round_trip(seeded(open_clip_model), run, SaraConfig(density=0.1), tmp_path, tolerance=1e-5)
    assert {name.rpartition(".")[2] for name, _ in model.base_model.sara_layers()} == {"c_fc", "c_proj"}
    assert len(list(model.base_model.sara_layers())) == 8


@pytest.mark.parametrize("target", ["attn", "out_proj", "in_proj_weight", "attn.in_proj"])
def test_open_clip_attention_is_refused(target):
    with pytest.raises(ValueError, match=r"SARA cannot adapt .*in_proj_weight.*Target the Linears of the blocks"):
        get_peft_model(open_clip_model(), SaraConfig(target_modules=["c_fc", target], density=0.1))


def test_a_module_called_in_proj_is_a_module(tmp_path):
    """Mamba has one; so may a model that has an nn.MultiheadAttention elsewhere."""

    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.in_proj, self.attention = nn.Linear(8, 8), nn.MultiheadAttention(8, 2)

        def forward(self, x):
            return self.in_proj(x)

    round_trip(seeded(Mixer), lambda m: m(torch.ones(1, 8)), SaraConfig(target_modules=["in_proj"], density=0.5), tmp_path)


def test_timm_and_two_towers_by_default(tmp_path):
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    model = round_trip(lambda: base("timm"), lambda m: m(x).logits, SaraConfig(density=0.1, block_rows=50), tmp_path)
    names = {name.split(".", 3)[3] for name, _ in model.base_model.sara_layers()}
    assert names == {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}
    clip = get_peft_model(base("clip"), SaraConfig(density=0.1))
    towers = {name.partition(".")[0] for name, _ in clip.base_model.sara_layers()}
    assert towers == {"text_model", "vision_model"}
    siglip = get_peft_model(base("siglip"), SaraConfig(density=0.1))
    assert not [name for name, _ in siglip.base_model.sara_layers() if ".head." in name]


def test_patch_embeddings_and_chosen_layers():
    model = get_peft_model(base("vit"), SaraConfig(target_modules=["projection"], density=0.1))
    assert [name for name, _ in model.base_model.sara_layers()] == ["vit.embeddings.patch_embeddings.projection"]
    model = get_peft_model(base("vit"), SaraConfig(density=0.1, layers_to_transform=[1, 4]))
    assert {name.split(".")[2] for name, _ in model.base_model.sara_layers()} == {"1", "4"}


def test_one_weight_is_wrapped_once():
    tied = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)})
    tied["b"].weight = tied["a"].weight
    with pytest.raises(ValueError, match="'b' and 'a' share one weight; target only one of them"):
        get_peft_model(tied, SaraConfig(target_modules=["a", "b"], density=0.1))


def test_weights_that_are_not_plain_are_refused():
    quantised = nn.Linear(8, 8)
    quantised.weight = nn.Parameter(torch.zeros(8, 8, dtype=torch.int8), requires_grad=False)
    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    for linear in (quantised, parametrized):
        with pytest.raises(ValueError, match=r"is quantised|parametrized or absent"):
            get_peft_model(nn.Sequential(linear), SaraConfig(target_modules=["0"], density=0.1))
    with pytest.raises(ValueError, match="only with include_bias_norm=True"):
        get_peft_model(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)), SaraConfig(target_modules=["0", "1"], density=0.1))


def test_class_names_need_a_classifier_that_is_known():
    with pytest.raises(ValueError, match="has no classifier"):
        get_peft_model(nn.Sequential(nn.Linear(8, 8)), SaraConfig(target_modules=["0"], density=0.1, class_names=["a"]))


def test_injected_without_a_peft_model():
    model = inject_adapter_in_model(SaraConfig(target_modules=["0"], density=0.5, init_weights=False), nn.Sequential(nn.Linear(8, 8)))
    assert [name for name, _ in model.named_parameters() if "sara" in name] == ["0.sara_values.default"]
    assert model(torch.ones(1, 8)).shape == (1, 8)
