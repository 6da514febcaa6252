"""Heads that are fitted or aligned in a run give the same logits in a Python that begins from nothing, to the bit."""

from __future__ import annotations

from functools import partial

import torch
from device_runs import FRAME, KEYS, ORDERED, ORDERED_MEANS, SCAN, TARGETS, VECTORS, Run, build, slow_learner
from processes import interpreter
from safetensors.torch import save_file

from hf_cl.methods import dkvb, etf, frozen, linear_probe, lora, mamba_fscil, maxsim, prd
from hf_cl.methods.with_memory import with_memory

HEADS = {
    "gaussian": {},
    "gaussian shared": {"covariance": "shared"},
    "gaussian low_rank": {"covariance": "low_rank", "rank": 3},
    "gaussian prior": {"prior": True},
    "gaussian rff": {"feature_map": "rff", "map_dim": 16},
    "ridge": {},
    "ridge relu": {"feature_map": "relu", "map_dim": 16},
    "kernel_ridge": {"coreset_per_class": 3},
    "logistic": {"draws_per_class": 10},
    "fetril": {},
    "prototype": {},
}
RUNS = {name: Run(partial(frozen, {"type": name.split()[0], **settings})) for name, settings in HEADS.items()}
RUNS["language_targets"] = Run(partial(linear_probe, epochs=1, head=TARGETS))
RUNS["nested_dropout"] = Run(partial(linear_probe, epochs=1, head=ORDERED))
RUNS["nested_dropout gaussian"] = Run(partial(linear_probe, epochs=1, head=ORDERED_MEANS))
RUNS["prd"] = Run(partial(prd, epochs=1, r=4, projector=(16, 8)))
RUNS["lora with exemplars"] = Run(lambda: with_memory(lora(epochs=1, r=4, loss_scope="seen"), {"type": "exemplars", "per_class": 2}))
RUNS |= {"etf": Run(partial(etf, epochs=1, session_epochs=1, head=FRAME, memory={"type": "class_means"}))}
RUNS |= {"maxsim": Run(partial(maxsim, epochs=1, session_epochs=1, head=VECTORS))}
RUNS |= {"mamba_fscil": Run(partial(mamba_fscil, epochs=1, session_epochs=1, head=SCAN, memory={"type": "class_means"}))}
RUNS |= {"dkvb": Run(partial(dkvb, epochs=1, head=KEYS)), "slca": Run(partial(slow_learner, alignment={"epochs": 1}))}

LOAD = """
import sys, torch
from pathlib import Path
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification
import hf_cl
torch.set_num_threads(1)
folder = Path(sys.argv[1])
saved = load_file(folder / "wanted.safetensors")
for name in sys.argv[2:]:
    adapter = folder / name / "adapters" / "session-1"
    base = AutoModelForImageClassification.from_pretrained(folder / "base").eval()
    with torch.no_grad():
        assert torch.equal(PeftModel.from_pretrained(base, adapter).eval()(saved["pixels"]).logits, saved[name]), name
        base = AutoModelForImageClassification.from_pretrained(folder / "base").eval()
        base.load_adapter(adapter)
        assert torch.equal(base(saved["pixels"]).logits, saved[name]), name + " by transformers"
"""


def test_reloaded_to_the_bit(tmp_path):
    wanted = {"pixels": torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    for name, run in RUNS.items():
        trainer = build(run, tmp_path / name, tmp_path)
        trainer.backbone.save_pretrained(tmp_path / "base")  # pyright: ignore[reportCallIssue]
        trainer.fit()
        with torch.no_grad():
            wanted[name] = trainer.model.eval()(wanted["pixels"]).logits.contiguous()
        assert wanted[name].shape == (4, 4) and wanted[name].isfinite().all()
    save_file(wanted, tmp_path / "wanted.safetensors")
    done = interpreter("-c", LOAD, tmp_path, *RUNS)
    assert done.status == 0, done.output[-2000:]
