"""Fixed targets of classes: texts of their names (heads `language_targets`, `maxsim`), vectors from a file, or a control without language.

Shapes: C classes, K targets of a class, E width of the targets.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from hf_cl.adapters.bases import family_of
from hf_cl.backbones.class_texts import EncodedNames, encode_names, encode_templates, projection_of
from hf_cl.hints import nearest

logger = logging.getLogger(__name__)

ALIKE = 0.999
"""Two classes whose targets have a cosine above this are told apart by nothing."""
CONTROL_WIDTH = 512
"""E of targets without language, that of CLIP's texts; more where there are more classes than that."""


def texts_of(head: Mapping[str, Any], base: str, class_names: Sequence[str], *, revision: str | None = None) -> EncodedNames:
    """What a run's class names say to its head.

    Args:
        head: its spec, for which `reads_texts` is true.
        base: of the run: a Hub id, a folder, or one that ships with hf_cl.
        class_names: every class that is going to be taught.
        revision: the Hub revision of the base.

    Raises ValueError for a text tower that is not there, names that it cannot read or tell apart, and a file that has no usable vector of
    every class.
    """
    if head["type"] not in ("language_targets", "maxsim"):
        return encode_names(base, class_names, head.get("template"), revision=revision)
    kind = head.get("targets", "text")
    if kind == "text":
        rows, projection = _of_texts(head, base, class_names, revision)
    elif kind in ("random", "orthogonal"):
        rows, projection = (_random if kind == "random" else _orthogonal)(class_names)[:, None], None
    else:
        rows, projection = _of_file(Path(kind), class_names), None
    rows = _unit(rows, class_names)
    _warn_of_twins(rows, class_names)
    return EncodedNames(dict(zip(class_names, rows, strict=True)), projection)


def _of_texts(head: Mapping[str, Any], base: str, names: Sequence[str], revision: str | None) -> tuple[Tensor, Tensor | None]:
    """[C, K, E], and where the projector begins."""
    given, template = head.get("text_model"), head.get("template")
    templates = template if isinstance(template, list) else [template]
    if not templates:
        raise ValueError("template is a text with {} in it, or a list of some; the list is empty.")
    try:
        model, found = encode_templates(given or base, names, templates, revision=None if given else revision)
    except ValueError as error:
        if given:
            raise
        raise ValueError(
            f"{error}\nThe head {head['type']} reads class names through the base's own text tower unless it is told of another: "
            "text_model: openai/clip-vit-base-patch32, say, or demo_clip, which needs no network."
        ) from error
    rows = found.transpose(0, 1)  # [C, K, E]
    if head["type"] == "maxsim":  # its tokens are CLIP's before the projection; SigLIP's go through an attention first
        known = ("clip",)
    else:
        known = ("clip", "siglip") if head.get("pool") == "pooled" else ()
        rows = rows.mean(1, keepdim=True) if head.get("aggregate", "mean") == "mean" else rows
    return rows, projection_of(model, rows.shape[-1]) if not given and family_of(model) in known else None


def _of_file(path: Path, names: Sequence[str]) -> Tensor:
    """[C, K, E]"""
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"targets of the head language_targets are text, random, orthogonal, or a safetensors file; {str(path)!r} is none: {error}"
            f"{nearest(str(path), ('text', 'random', 'orthogonal'))}"
        ) from error
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(
            f"{path} has no vector of {len(missing)} of {len(names)} classes: {', '.join(missing[:5])}{', ...' * (len(missing) > 5)}."
        )
    rows = [torch.atleast_2d(found[name]).float() for name in names]
    odd = next((name for name, row in zip(names, rows, strict=True) if row.shape != rows[0].shape or row.ndim != 2), None)
    if odd is not None:
        raise ValueError(f"{path}: every class has a vector [E], or K of them [K, E], of one size; {odd!r} and {names[0]!r} differ.")
    return torch.stack(rows)


def _random(names: Sequence[str]) -> Tensor:
    """[C, E] a direction that is a function of the name alone."""
    seeds = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1 for name in names]
    return torch.stack([torch.randn(CONTROL_WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def _orthogonal(names: Sequence[str]) -> Tensor:
    """[C, E] directions at right angles, by position."""
    width = max(CONTROL_WIDTH, len(names))
    noise = torch.randn(width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(noise).Q[: len(names)].float()


def _unit(rows: Tensor, names: Sequence[str]) -> Tensor:
    """[C, K, E] at unit length. Raises ValueError, with its name, for a class whose vector has no direction."""
    lengths = rows.norm(dim=-1)  # [C, K]
    bad = (~lengths.isfinite() | (lengths == 0)).any(1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"The target of the class {names[bad[0]]!r} is zero or no number, so it has no direction.")
    return F.normalize(rows, dim=-1)


def _warn_of_twins(rows: Tensor, names: Sequence[str]) -> None:
    means = F.normalize(rows.mean(1), dim=-1)  # [C, E]
    pairs = (torch.triu(means @ means.T, 1) > ALIKE).nonzero().tolist()
    if pairs:
        a, b = pairs[0]
        logger.warning(
            "%d pairs of classes have the same target, as %r and %r: the head cannot tell them apart.", len(pairs), names[a], names[b]
        )
