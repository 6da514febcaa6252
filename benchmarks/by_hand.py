"""The other side: training loops written by hand in PyTorch for one case each, with the same arithmetic and the same initial values.

A loop here knows its model, its adapter and its loss, and nothing is general. It runs on the modules of a plain model of transformers, and
writes out the forward itself. `benchmarks/steps.py` checks that both sides have the same losses.

Shapes: B batch, H heads, N tokens, P prefix rows, L prompts, D width, r rank, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COACT_RATE = 1e-3
"""A hundredth of the published one: the same batch comes again and again, and on values that explode arithmetic has another speed."""

Step = Callable[[], Tensor]
"""One optimizer step on the batch it was made for; returns the loss."""


@dataclass
class Block:
    """The parts of one pre-norm block; q, k, v may be exchanged for others."""

    norm1: Any
    q: Any
    k: Any
    v: Any
    o: Any
    norm2: Any
    mlp: Any
    heads: int

    def __call__(self, x: Tensor, rows: tuple[Tensor, Tensor] | None = None, causal: bool = False) -> Tensor:  # [B, N, D]
        h = self.norm1(x)
        q, k, v = (p(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q, self.k, self.v))  # [B, H, N, d]
        if rows is not None:
            more = (r.unflatten(-1, (self.heads, -1)).transpose(0, 1).expand(len(k), -1, -1, -1) for r in rows)  # [B, H, P, d]
            k, v = (torch.cat([r, t], dim=2) for r, t in zip(more, (k, v), strict=True))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        x = x + self.o(a.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class ViT:
    """Of a `ViTForImageClassification`: pixels to the class token behind the last norm."""

    def __init__(self, model: Any) -> None:
        vit = model.vit
        self.patches, self.embeddings, self.norm = vit.embeddings.patch_embeddings.projection, vit.embeddings, vit.layernorm
        heads = model.config.num_attention_heads
        self.blocks = [
            Block(
                b.layernorm_before,
                b.attention.q_proj,
                b.attention.k_proj,
                b.attention.v_proj,
                b.attention.o_proj,
                b.layernorm_after,
                b.mlp,
                heads,
            )
            for b in vit.layers
        ]

    def __call__(self, pixels: Tensor, rows: Mapping[int, tuple[Tensor, Tensor]] = {}) -> Tensor:  # [B, 3, S, S] -> [B, D]
        x = self.patches(pixels).flatten(2).transpose(1, 2)  # [B, N-1, D]
        x = torch.cat([self.embeddings.cls_token.expand(len(x), -1, -1), x], dim=1) + self.embeddings.position_embeddings
        for number, block in enumerate(self.blocks):
            x = block(x, rows.get(number))
        return self.norm(x)[:, 0]


class Lora(nn.Module):
    """A frozen linear layer and a product of two small ones beside it."""

    def __init__(self, linear: nn.Linear, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.linear, self.scale = linear, scale
        self.a, self.b = nn.Parameter(a.detach().clone()), nn.Parameter(b.detach().clone())  # [r, D], [D, r]

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + F.linear(F.linear(x, self.a), self.b) * self.scale


def head_like(ours: Any) -> nn.Linear:
    """The rows of our head in a plain layer."""
    return copy.deepcopy(ours.classifier.head).requires_grad_(True)


def stepping(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], clip: list[Tensor] | None = None) -> Step:
    def step() -> Tensor:
        value = loss()
        value.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(clip, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return value.detach()

    return step


def one_prompt(base: Any, ours: Any, images: Tensor, labels: Tensor, first: int) -> Step:
    """Prefix rows in the first layers, cross-entropy among the new classes, Adam."""
    layers = ours.model.get_base_model().vit.layers
    tuned = {i: b.attention for i, b in enumerate(layers) if type(b.attention).__name__ == "OnePromptLayer"}
    rows = {
        i: tuple(nn.Parameter(r["default"].detach().clone()) for r in (layer.one_prompt_k, layer.one_prompt_v))
        for i, layer in tuned.items()
    }
    vit, head = ViT(base.requires_grad_(False)), head_like(ours)
    optimizer = torch.optim.Adam([p for pair in rows.values() for p in pair] + list(head.parameters()), lr=1e-3)
    return stepping(optimizer, lambda: F.cross_entropy(head(vit(images, rows))[:, first:], labels - first))  # pyright: ignore


def put_lora(blocks: list[Block], layers: Any, names: str, a: str, b: str, scale: float) -> list[nn.Parameter]:
    """LoRA with the initial values of our layers on the projections `names` of all blocks."""
    made = []
    for block, layer in zip(blocks, layers, strict=True):
        for name in names:
            tuned = getattr(layer, f"{name}_proj")
            module = Lora(getattr(block, name), getattr(tuned, a)["default"].weight, getattr(tuned, b)["default"].weight, scale)
            setattr(block, name, module)
            made += [module.a, module.b]
    return made


def lora(base: Any, ours: Any, images: Tensor, labels: Tensor, first: int, scale: float = 1.0, rate: float = 1e-3) -> Step:
    """LoRA on q, k and v, cross-entropy among the new classes, Adam."""
    vit, head = ViT(base.requires_grad_(False)), head_like(ours)
    layers = [b.attention for b in ours.model.get_base_model().vit.layers]
    trained = put_lora(vit.blocks, layers, "qkv", "lora_A", "lora_B", scale)
    optimizer = torch.optim.Adam([*trained, *head.parameters()], lr=rate)
    return stepping(optimizer, lambda: F.cross_entropy(head(vit(images))[:, first:], labels - first))


def glad(base: Any, ours: Any, images: Tensor, labels: Tensor, scale: float, rho: float, lam: float) -> Step:
    """LoRA on q, k and v; the gradient is the mean of the plain one and the one at w + rho g / |g|. AdamW."""
    vit, head = ViT(base.requires_grad_(False)), head_like(ours)
    layers = [b.attention for b in ours.model.get_base_model().vit.layers]
    trained = [*put_lora(vit.blocks, layers, "qkv", "lora_A", "lora_B", scale), *head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=1e-2)

    def step() -> Tensor:
        loss = F.cross_entropy(head(vit(images)), labels)
        loss.backward()
        plain = [p.grad.clone() for p in trained]  # pyright: ignore[reportOptionalMemberAccess]
        kept = [p.detach().clone() for p in trained]
        length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in plain]))
        with torch.no_grad():
            for parameter, gradient in zip(trained, plain, strict=True):
                parameter.add_(gradient * (rho / length))
                parameter.grad = None
        F.cross_entropy(head(vit(images)), labels).backward()
        with torch.no_grad():
            for parameter, gradient, value in zip(trained, plain, kept, strict=True):
                parameter.copy_(value)
                parameter.grad.mul_(lam).add_(gradient, alpha=1 - lam)  # pyright: ignore[reportOptionalMemberAccess]
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def sara(base: Any, ours: Any, images: Tensor, labels: Tensor, first: int, rate: float) -> Step:
    """Some entries of every matrix move: the weight is put together in each forward. AdamW on the entries, decay on their values."""
    vit, head = ViT(base.requires_grad_(False)), head_like(ours)
    entries, places = [], []
    linears = dict(base.named_modules())
    for name, layer in ours.tuner.sara_layers():
        linear, indices = linears[name], layer.sara_indices["default"].long()
        values = nn.Parameter(layer.sara_values["default"].detach().clone())
        linear.forward = _moved_linear(linear, indices, values)
        entries.append(values)
        places.append(linear.weight.flatten()[indices])
    groups = [{"params": entries, "lr": rate, "weight_decay": 0.0}, {"params": list(head.parameters()), "lr": 1e-3, "weight_decay": 1e-2}]
    optimizer = torch.optim.AdamW(groups)
    everything = [*entries, *head.parameters()]

    def step() -> Tensor:
        loss = F.cross_entropy(head(vit(images))[:, first:], labels - first)
        loss.backward()
        nn.utils.clip_grad_norm_(everything, 1.0)
        with torch.no_grad():
            for values, start in zip(entries, places, strict=True):
                values.mul_(1 - rate * 1e-2).sub_(start * (rate * 1e-2))
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def _moved_linear(linear: nn.Linear, indices: Tensor, values: Tensor) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        flat = linear.weight.flatten()
        weight = flat.index_put((indices,), flat[indices] + values).view_as(linear.weight)
        return F.linear(x, weight, linear.bias)

    return forward


def supervised_contrast(views: list[Tensor], labels: Tensor, temperature: float = 0.07) -> Tensor:
    anchors = F.normalize(torch.cat(views), dim=-1)
    similarity = anchors @ anchors.T / temperature
    labels = labels.repeat(len(views))
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    log_share = similarity - similarity.masked_fill(itself, -1e9).logsumexp(1, keepdim=True)
    positive = (labels[:, None] == labels) & ~itself
    return -((log_share * positive).sum(1) / positive.sum(1).clamp(min=1)).mean()


class SeparateModels:
    """CoACT the straightforward way: a student, and a whole model for every state of it that the losses read.

    LoRA on q and v of all blocks; the blocks from `unfreeze_from` on, the last norm and the pooler train. `frozen` models are given as
    copies of the student or of the plain base.
    """

    def __init__(self, base: Any, ours: Any, scale: float, unfreeze_from: int) -> None:
        self.base = base.requires_grad_(False)
        self.head = head_like(ours)
        self.vit = ViT(self.base)
        layers = [b.attention for b in ours.model.get_base_model().vit.layers]
        self.unfrozen = [p for b in base.vit.layers[unfreeze_from:] for p in b.parameters()] + list(base.vit.layernorm.parameters())
        self.lora = put_lora(self.vit.blocks, layers, "qv", "async_lora_A", "async_lora_B", scale)

    def parameters(self) -> list[Tensor]:
        return [*self.base.parameters(), *self.head.parameters(), *self.lora]


def coact_session_0(student: SeparateModels, teacher: SeparateModels, images: Tensor, other: Tensor, labels: Tensor, decay: float) -> Step:
    """Cross-entropy, and the contrast of the student's first view with the teacher's second one; the teacher follows."""
    head = student.head
    rows = [p for name, p in head.named_parameters() if not name.startswith("pooler")]
    unfrozen = [*student.unfrozen, *head.pooler.parameters()]  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    averages = [*teacher.unfrozen, *teacher.head.pooler.parameters()]  # pyright: ignore
    for parameter in unfrozen:
        parameter.requires_grad_(True)
    groups = [{"params": [*student.lora, *rows], "lr": COACT_RATE}, {"params": unfrozen, "lr": 1e-3 * COACT_RATE}]
    optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True, weight_decay=5e-4)
    plain = ViT(teacher.base)  # without LoRA

    def step() -> Tensor:
        features = head.pooler(student.vit(images)).tanh()  # pyright: ignore[reportCallIssue]
        with torch.no_grad():
            theirs = teacher.head.pooler(plain(other)).tanh()  # pyright: ignore[reportCallIssue]
        loss = F.cross_entropy(F.linear(features, head.weight), labels) + supervised_contrast([features, theirs], labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for average, value in zip(averages, unfrozen, strict=True):
                average.lerp_(value, 1 - decay)
        return loss.detach()

    return step


def coact_later(
    student: SeparateModels,
    base: SeparateModels,
    others: list[SeparateModels],
    views: tuple[Tensor, Tensor],
    labels: Tensor,
    columns: int,
) -> Step:
    """LoRA and rows train; the contrast has a model of its own per role, and the base student gives the targets of its columns."""
    head, rate = student.head, 1e-3 * COACT_RATE
    for parameter in head.pooler.parameters():  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        parameter.requires_grad_(False)
    optimizer = torch.optim.SGD([*student.lora, head.weight], lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    plain = [(ViT(other.base), other.head) for other in others]

    def step() -> Tensor:
        features = head.pooler(student.vit(views[0])).tanh()  # pyright: ignore[reportCallIssue]
        with torch.no_grad():
            seen = [features, *(h.pooler(vit(views[1])).tanh() for vit, h in plain)]  # pyright: ignore[reportCallIssue]
            target = base.head(base.vit(views[0]))[:, :columns]
        logits = F.linear(features, head.weight)
        loss = F.cross_entropy(logits, labels) + supervised_contrast(seen, labels) + F.mse_loss(logits[:, :columns], target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


class Clip:
    """Both towers of a `CLIPModel` with CPE-CLIP's prompts: [K, L, D] in the texts, and through one linear layer behind the patches."""

    def __init__(self, model: Any, prompts: Tensor, projection: nn.Linear) -> None:
        self.model, self.text, self.vision = model, model.text_model, model.vision_model
        self.prompts, self.projection = nn.Parameter(prompts.detach().clone()), copy.deepcopy(projection).requires_grad_(True)
        self.text_blocks, self.vision_blocks = self._blocks(self.text), self._blocks(self.vision)

    @staticmethod
    def _blocks(tower: Any) -> list[Block]:
        return [
            Block(
                b.layer_norm1,
                b.self_attn.q_proj,
                b.self_attn.k_proj,
                b.self_attn.v_proj,
                b.self_attn.out_proj,
                b.layer_norm2,
                b.mlp,
                b.self_attn.num_heads,
            )
            for b in tower.encoder.layers
        ]

    def texts(self, ids: Tensor) -> Tensor:  # [C, T] -> [C, E], unit length
        count = self.prompts.shape[1]
        words = self.text.embeddings.token_embedding(ids)  # [C, T, D]
        room = words.new_zeros(len(ids), count, words.shape[-1])
        x = torch.cat([words[:, :1], room, words[:, 1:]], dim=1)  # [C, T+L, D]
        x = x + self.text.embeddings.position_embedding.weight[: x.shape[1]]
        positions = self.text.embeddings.position_embedding.weight[1 : 1 + count]
        for number, block in enumerate(self.text_blocks):
            prompts = self.prompts[number] + positions if number == 0 else self.prompts[number]
            x = torch.cat([x[:, :1], prompts.expand(len(x), -1, -1), x[:, 1 + count :]], dim=1)
            x = block(x, causal=True)
        ends = (ids == self.model.config.text_config.eos_token_id).int().argmax(1) + count
        pooled = self.text.final_layer_norm(x)[torch.arange(len(ids)), ends]
        return F.normalize(self.model.text_projection(pooled), dim=-1)

    def images(self, pixels: Tensor) -> Tensor:  # [B, 3, S, S] -> [B, E], unit length
        embeddings = self.vision.embeddings
        x = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([embeddings.class_embedding.expand(len(x), 1, -1), x], dim=1) + embeddings.position_embedding.weight
        x = torch.cat([x, self.projection(self.prompts[0]).expand(len(x), -1, -1)], dim=1)
        x = self.vision.pre_layrnorm(x)
        for number, block in enumerate(self.vision_blocks):
            if number:
                x = torch.cat([x, self.projection(self.prompts[number]).expand(len(x), -1, -1)], dim=1)
            x = block(x)
        return F.normalize(self.model.visual_projection(self.vision.post_layernorm(x[:, 0])), dim=-1)


def cpe_clip(base: Any, ours: Any, images: Tensor, labels: Tensor, first: int, ids: Tensor, factor: float) -> Step:
    """Cross-entropy among the session's classes, whose texts are encoded in every step; the gradient is scaled. SGD."""
    layer = next(m for m in ours.model.modules() if type(m).__name__ == "CPEClipLayer")
    clip = Clip(base.requires_grad_(False), layer.cpe_clip_prompts["default"], layer.cpe_clip_proj["default"])
    trained = [clip.prompts, *clip.projection.parameters()]
    optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.9, weight_decay=1e-5)

    def step() -> Tensor:
        logits = 100.0 * clip.images(images) @ clip.texts(ids).T
        loss = F.cross_entropy(logits, labels - first)
        loss.backward()
        for parameter in trained:
            parameter.grad.mul_(factor)  # pyright: ignore[reportOptionalMemberAccess]
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


class TwoPass:
    """DualPrompt's arithmetic (Wang et al., ECCV 2022): a query pass without gradient picks a prompt per image, a second pass uses it.

    Prefix rows: general ones in layers 0 and 1, and in layers 2 to 4 those of the pool's entry whose key is nearest to the query.
    """

    def __init__(self, base: Any, head: nn.Linear, pool: int = 10, general: int = 5, chosen: int = 20) -> None:
        width = base.config.hidden_size
        self.vit, self.head = ViT(base.requires_grad_(False)), head
        self.general = [[nn.Parameter(torch.rand(general, width)) for _ in range(2)] for _ in range(2)]
        self.chosen = [nn.Parameter(torch.rand(pool, 2, chosen, width)) for _ in range(3)]
        self.keys = nn.Parameter(torch.rand(pool, width))

    def parameters(self) -> list[nn.Parameter]:
        return [p for pair in self.general for p in pair] + [*self.chosen, self.keys, *self.head.parameters()]

    def to(self, device: torch.device) -> TwoPass:
        for parameter in self.parameters():
            parameter.data = parameter.data.to(device)
        return self

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:  # [B, 3, S, S] -> logits [B, C], key loss
        with torch.no_grad():
            query = F.normalize(self.vit(pixels), dim=-1)  # [B, D]
        match = query @ F.normalize(self.keys, dim=-1).T  # [B, pool]
        best, which = match.max(1)
        rows: dict[int, Any] = {i: tuple(pair) for i, pair in enumerate(self.general)}
        prompted = {i + 2: pool[which].unbind(1) for i, pool in enumerate(self.chosen)}  # [B, P, D] each for keys and values
        return self.head(_run_per_image(self.vit, pixels, rows, prompted)), (1 - best).mean()


def _run_per_image(vit: ViT, pixels: Tensor, rows: dict[int, Any], prompted: dict[int, Any]) -> Tensor:
    x = vit.patches(pixels).flatten(2).transpose(1, 2)
    x = torch.cat([vit.embeddings.cls_token.expand(len(x), -1, -1), x], dim=1) + vit.embeddings.position_embeddings
    for number, block in enumerate(vit.blocks):
        x = _with_own_rows(block, x, prompted[number]) if number in prompted else block(x, rows.get(number))
    return vit.norm(x)[:, 0]


def _with_own_rows(block: Block, x: Tensor, rows: tuple[Tensor, Tensor]) -> Tensor:
    h = block.norm1(x)
    q, k, v = (p(h).unflatten(-1, (block.heads, -1)).transpose(1, 2) for p in (block.q, block.k, block.v))  # [B, H, N, d]
    more = (r.unflatten(-1, (block.heads, -1)).transpose(1, 2) for r in rows)  # [B, H, P, d]
    k, v = (torch.cat([r, t], dim=2) for r, t in zip(more, (k, v), strict=True))
    x = x + block.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    return x + block.mlp(block.norm2(x))


def two_pass_step(model: TwoPass, images: Tensor, labels: Tensor, first: int) -> Step:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def loss() -> Tensor:
        logits, pull = model(images)
        return F.cross_entropy(logits[:, first:], labels - first) + 0.1 * pull

    return stepping(optimizer, loss)
