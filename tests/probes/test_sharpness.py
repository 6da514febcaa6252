"""What the sharpness probe needs of the model: attention that can be differentiated twice, and no mixed precision."""

import pytest
import torch
from loop_case import backbone, build
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_cl.probes import SharpnessProbe


def test_double_backward_needs_attentions_mathematical_form():
    model = backbone(dropout=0.0).eval()
    weight = next(p for name, p in model.named_parameters() if "attention" in name and p.dim() == 2)

    def twice():
        loss = model.vit(torch.ones(1, 3, 32, 32)).last_hidden_state.square().mean()
        (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
        return torch.autograd.grad(gradient.sum(), weight)[0]

    with pytest.raises(RuntimeError, match=r"derivative for .*attention.* is not implemented"):
        twice()
    with sdpa_kernel(SDPBackend.MATH):
        assert twice().abs().max() > 0


def test_the_probe_asks_for_it_and_for_whole_numbers(tmp_path, monkeypatch):
    trainer = build(tmp_path, sessions=1, mixed_precision="bf16")
    trainer.probes.append(SharpnessProbe(trace_samples=2, power_iterations=2))
    asked, outputs_of = [], type(trainer).outputs_of

    def seen(self, pixels, **settings):
        outputs = outputs_of(self, pixels, **settings)
        asked.append((outputs.logits.dtype, torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()))
        return outputs

    monkeypatch.setattr(type(trainer), "outputs_of", seen)
    report = trainer.fit().probes["sharpness"]
    assert asked == [(torch.float32, False, True)]
    assert report["frobenius"] > 0 and report["trace_error"] > 0
    assert torch.backends.cuda.flash_sdp_enabled()
