"""What a run is refused for before any image is opened: looking at all of them may take minutes."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

from hf_cl.backbones.loading import DEMO
from hf_cl.errors import refuse_two_meanings, refuse_unasked
from hf_cl.heads import check_head
from hf_cl.hints import nearest
from hf_cl.hub.access import check_push
from hf_cl.hub.published import published_base
from hf_cl.images import check_augmentation
from hf_cl.probes import build_probes
from hf_cl.scenarios import SCENARIOS
from hf_cl.scenarios.class_order import check_class_order
from hf_cl.settings import RunSettings


def check_settings(settings: RunSettings) -> None:
    """Raise ValueError for names, folders and combinations that cannot work, whatever the data are; HubError for a planned push that
    cannot be made.
    """
    _check_planned_push(settings)
    if settings.backbone == DEMO and (Path(DEMO) / "config.json").is_file():
        refuse_two_meanings(DEMO, "the base that ships with hf_cl")
    refuse_unasked(Path(settings.output_dir), settings.resume)
    check_augmentation(settings.augmentation)
    _check_protocol(settings)
    head = vars(settings).get("head")  # of the methods that let one choose
    if head is not None and head.get("type") != "text":
        check_head(head)
    build_probes(settings.probes, settings.stability_every)


def _check_planned_push(settings: RunSettings) -> None:
    if settings.private and not settings.push_to_hub:
        raise ValueError("private is about the repository of push_to_hub, and none is named.")
    if settings.push_to_hub and os.environ.get("RANK", "0") == "0":  # one process asks the Hub
        check_push(settings.push_to_hub, private=settings.private)
        published_base(settings.backbone)


def _check_protocol(settings: RunSettings) -> None:
    if settings.protocol not in SCENARIOS:
        raise ValueError(f"Unknown protocol {settings.protocol!r}.{nearest(settings.protocol, SCENARIOS)} Known: {', '.join(SCENARIOS)}.")
    known = inspect.signature(SCENARIOS[settings.protocol]).parameters
    unused = [name for name in ("shots", "index_list", "targets") if getattr(settings, name) and name not in known]
    if unused:
        raise ValueError(f"Protocol {settings.protocol} has no {unused[0]!r}; leave it out, or choose another protocol.")
    if "shots" in known and settings.shots is None:
        raise ValueError(f"Protocol {settings.protocol} needs shots, the number of training images per class.")
    if "class_order" in known:
        check_class_order(settings.class_order)
