"""MVP's pool, head and losses against the official model (tests/reference/mvp), in float64."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ovor_reference import load, vit
from peft import get_peft_model

from hf_cl.adapters import PromptPoolConfig
from hf_cl.backbones import classifier_of
from hf_cl.contracts import Context
from hf_cl.losses import ContrastiveKeys, MvpLoss, PromptKeys
from hf_cl.parts import PoolUsage

FOLDER = Path(__file__).parents[2] / "reference" / "mvp"
G, E, EXPOSED = (0, 1), (2, 3, 4), 4
MODES = {"tuning": "prompt_tuning", "prefix": "prefix_tuning"}
modes = pytest.mark.parametrize("mode", MODES)


@cache
def numbers(name="mvp"):
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays.files}


class Mvp:
    """The tiny ViT with the official start values."""

    def __init__(self, mode: str, query="penultimate", balance=True):
        found, self.halves = numbers(), 1 if mode == "tuning" else 2
        config = PromptPoolConfig(
            producer="mvp", mode=mode, query=query, balance=balance, pool_size=4, e_tokens=3, g_tokens=2, top_k=1,
            class_names=[f"class {i}" for i in range(6)], head={"type": "instance_mask", "pool_size": 4},
        )  # fmt: skip
        self.model = get_peft_model(vit(), config, autocast_adapter_dtype=False).double()
        self.tuner = self.model.base_model
        self.layers = {number: block.attention for number, block in enumerate(self.tuner.model.vit.layers)}
        self.head = self.tuner.head_wrapper().head("default")
        prefix = "init." if mode == "tuning" else "init.prefix."
        with torch.no_grad():
            for name, layers in (("g_prompts", G), ("e_prompts", E)):
                blocks = found[prefix + name].unflatten(1, (len(layers), self.halves, -1))  # [M, layers, h, L, D]
                for at, layer in enumerate(layers):
                    kind = name[0] if name[0] == "g" else "p"
                    target = getattr(self.layers[layer], f"prompt_pool_{kind}")["default"]
                    target.copy_(blocks[0, at] if kind == "g" else blocks[:, at])
            self.keys.copy_(found["init.key"])
            self.count.copy_(found["init.count"])
            self.head.mask.copy_(found["init.mask"].T)
            self.head.weight.copy_(found["init.backbone.head.weight"])
            self.head.bias.copy_(found["init.backbone.head.bias"])
        self.trainer = SimpleNamespace(tuner=self.tuner, head=self.head, contexts=())

    @property
    def keys(self):
        return self.layers[2].prompt_pool_k["default"]

    @property
    def count(self):
        return self.layers[2].prompt_pool_count["default"]

    def parameters(self):
        """Under the official names, in the official layout."""
        g = [self.layers[i].prompt_pool_g["default"] for i in G]
        p = [self.layers[i].prompt_pool_p["default"] for i in E]
        return {
            "key": (self.keys, lambda one: one),
            "mask": (self.head.mask, lambda one: one.T),
            "g_prompts": (g, lambda all: torch.cat([one.flatten(0, 1) for one in all])[None]),
            "e_prompts": (p, lambda all: torch.cat([one.flatten(1, 2) for one in all], 1)),
            "backbone.head.weight": (self.head.weight, lambda one: one),
            "backbone.head.bias": (self.head.bias, lambda one: one),
        }

    def context(self):
        outputs = classifier_of(self.model).outputs(load("vit_plain")["pixel_values"])
        batch = {"labels": numbers()["labels"], "index": torch.arange(8)}
        return Context(batch, (outputs,), None, 0, 0, None, exposed=EXPOSED)

    def loss(self, ctx, **switches):
        main, keys = MvpLoss(**switches), ContrastiveKeys() if self.layers[2].producers["default"].balance else PromptKeys()
        main.begin_session(self.trainer, None)
        keys.begin_session(self.trainer, None)
        return main(ctx), keys(ctx)

    def step_taken(self, ctx):
        self.trainer.contexts = (ctx,)
        PoolUsage().after_step(self.trainer)


def close(ours, theirs, atol=1e-12):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


@modes
@pytest.mark.parametrize("query", ["penultimate", "last"])
@torch.no_grad()
def test_choice_features_mask_and_logits(mode, query):
    mvp, at = Mvp(mode, query), f"{MODES[mode]}.last{int(query == 'last')}"
    mvp.model.eval()
    queries = []
    mvp.layers[0].register_forward_pre_hook(lambda layer, inputs: queries.append(layer))  # the untouched pass and the one with rows
    outputs = classifier_of(mvp.model).outputs(load("vit_plain")["pixel_values"])
    found = numbers()
    close(outputs.features, found[f"{at}.eval.feature"], 1e-10)
    close(outputs.logits[:, :EXPOSED], found[f"{at}.eval.logits"], 1e-10)
    close(mvp.head.believed(found[f"{at}.eval.chosen"][:, None]), found[f"{at}.eval.mask"])
    assert len(queries) == 2


@modes
@pytest.mark.parametrize(("scaled", "focal", "balance"), [(1, 1, 1), (0, 0, 1), (1, 0, 0), (0, 1, 0)])
def test_losses_scores_gradients_and_counts(mode, scaled, focal, balance):
    mvp, found = Mvp(mode, balance=bool(balance)), numbers()
    mvp.model.train()
    ctx = mvp.context()
    main, keys = mvp.loss(ctx, feature_scaling=bool(scaled), focal=bool(focal))
    at = f"{MODES[mode]}.last0.afs{scaled}gsf{focal}con{balance}"
    close(keys, found[f"{at}.key_loss"])
    close(main + keys, found[f"{at}.loss"], 1e-10)
    believed = mvp.head.believed(ctx.extras["chosen"][:, 0])[:, :EXPOSED]
    weight, bias = mvp.head.weight[:EXPOSED], mvp.head.bias[:EXPOSED]
    ign, _, cps = MvpLoss().scores(ctx.features, ctx.labels, weight, bias, believed, ctx.batch["index"])
    close(ign, found[f"{MODES[mode]}.last0.con{balance}.ign"], 1e-10)
    close(cps, found[f"{MODES[mode]}.last0.con{balance}.cps"], 1e-10)
    (main + keys).backward()
    for name, (ours, layout) in mvp.parameters().items():
        gradients = [one.grad for one in ours] if isinstance(ours, list) else ours.grad
        close(layout(gradients), found[f"{at}.grad.{name}"], 1e-10)
    mvp.step_taken(ctx)
    assert mvp.count.tolist() == found[f"{at}.count_after"].tolist()


def test_three_steps_of_adam():
    mvp, found = Mvp("tuning"), numbers()
    mvp.model.train()
    optimizer = torch.optim.Adam([p for p in mvp.model.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(3):
        ctx = mvp.context()
        loss = sum(mvp.loss(ctx))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mvp.step_taken(ctx)
        losses.append(loss.detach())
    close(torch.stack(losses), found["train.losses"], 1e-10)
    assert mvp.count.tolist() == found["train.count"].tolist()
    for name, (ours, layout) in mvp.parameters().items():
        close(layout([one.detach() for one in ours] if isinstance(ours, list) else ours.detach()), found[f"train.final.{name}"], 1e-10)


def test_our_own_variants():
    mvp, own = Mvp("tuning"), numbers("own")
    mvp.model.train()
    ctx = mvp.context()
    close(mvp.loss(ctx, per_sample=True)[0], own["per_sample_main"], 1e-10)
    close(mvp.loss(ctx)[0], own["scalar_main"], 1e-10)
    for contrast in ("per_image", "per_image_no_self"):
        keys = ContrastiveKeys(contrast=contrast)
        keys.begin_session(mvp.trainer, None)
        close(keys(ctx), own[f"key_loss_{contrast}"])
