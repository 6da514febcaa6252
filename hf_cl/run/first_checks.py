"""What a run is refused for before any image is opened: looking at all of them may take minutes."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hf_cl.backbones.loading import SHIPPED
from hf_cl.errors import refuse_two_meanings, refuse_unasked, refuse_unwritable
from hf_cl.heads import check_head
from hf_cl.hints import nearest, refuse
from hf_cl.hub.access import check_push
from hf_cl.hub.published import published_base
from hf_cl.images import check_augmentation
from hf_cl.probes import build_probes
from hf_cl.scenarios import SCENARIOS
from hf_cl.scenarios.class_order import check_class_order
from hf_cl.scenarios.exclude import read_excluded
from hf_cl.scenarios.few_shot import check_one_order
from hf_cl.settings import RunSettings


def check_settings(settings: RunSettings) -> None:
    """Raise ValueError with all names, folders and combinations that cannot work, whatever the data are; HubError for a planned push that
    cannot be made.
    """
    faults = _protocol_faults(settings)
    if "epochs" in settings.probes and not settings.validation_fraction:
        faults.append("The probe epochs looks at validation images: --validation_fraction 0.1 holds some out.")
    head = vars(settings).get("head")  # of the methods that let one choose
    two_meanings = settings.backbone in SHIPPED and (Path(settings.backbone) / "config.json").is_file()
    checks: list[tuple[Callable[..., object], tuple[Any, ...]]] = [
        (check_augmentation, (settings.augmentation,)),
        (build_probes, (settings.probes, settings.stability_every)),
        *([(check_head, (head,))] if head is not None else []),
        *([(refuse_two_meanings, (settings.backbone, "a base that ships with hf_cl"))] if two_meanings else []),
        (refuse_unwritable, (Path(settings.output_dir),)),
        (refuse_unasked, (Path(settings.output_dir), settings.resume)),
        *([(read_excluded, (Path(settings.exclude).expanduser(),))] if settings.exclude is not None else []),
    ]
    for check, arguments in checks:
        try:
            check(*arguments)
        except ValueError as error:
            faults.append(str(error))
    refuse(faults)
    _check_planned_push(settings)


def _check_planned_push(settings: RunSettings) -> None:
    if settings.private and not settings.push_to_hub:
        raise ValueError("private is about the repository of push_to_hub, and none is named.")
    if settings.push_to_hub and os.environ.get("RANK", "0") == "0":  # one process asks the Hub
        check_push(settings.push_to_hub, private=settings.private)
        published_base(settings.backbone)


def _protocol_faults(settings: RunSettings) -> list[str]:
    if settings.protocol not in SCENARIOS:
        return [f"Unknown protocol {settings.protocol!r}.{nearest(settings.protocol, SCENARIOS)} Known: {', '.join(SCENARIOS)}."]
    known = inspect.signature(SCENARIOS[settings.protocol]).parameters
    faults = [
        f"Protocol {settings.protocol} has no {name!r}; leave it out, or choose a protocol that has: {', '.join(_protocols_with(name))}."
        for name in ("shots", "index_list", "targets")
        if getattr(settings, name) and name not in known
    ]
    own = [name for name in known if name != "source" and name not in vars(settings) and name != "taught"]
    faults += [
        f"protocol_options: protocol {settings.protocol} has no {name!r}; of its own it has {', '.join(own) or 'none'}.{nearest(name, own)}"
        for name in settings.protocol_options
        if name not in own
    ]
    if settings.session_from == "new_pictures" and "session_from" not in known:
        faults.append(f"Protocol {settings.protocol} makes no session of new pictures; class_incremental does.")
    if settings.start_from is not None and "taught" not in known:
        faults.append(f"Protocol {settings.protocol} cannot start from an adapter; class_incremental and the few-shot protocols can.")
    if "shots" in known and settings.shots is None:
        faults.append(f"Protocol {settings.protocol} needs shots, the number of training images per class.")
    if settings.test_on == "validation" and not settings.validation_fraction:
        faults.append("test_on: validation needs images to measure on; say how many are kept out, such as validation_fraction 0.2.")
    return faults + _class_order_faults(settings, known)


def _protocols_with(name: str) -> list[str]:
    return [protocol for protocol, make in SCENARIOS.items() if name in inspect.signature(make).parameters]


def order_of_classes(settings: RunSettings) -> str | None:
    """What `class_order` comes to where the settings leave it to the protocol; None where the protocol reads none."""
    parameter = inspect.signature(SCENARIOS[settings.protocol]).parameters.get("class_order")
    return None if parameter is None else settings.class_order or parameter.default


def _class_order_faults(settings: RunSettings, known: Mapping[str, inspect.Parameter]) -> list[str]:
    order = settings.class_order
    if order is None:
        return []
    if "class_order" not in known:
        read = order in ("seed", "natural")  # what configs say that are for every protocol
        return [] if read else [f"Protocol {settings.protocol} has an order of classes of its own and reads no class_order; leave it out."]
    try:
        if settings.protocol == "few_shot_class_incremental":
            check_one_order(settings.index_list, order)
        check_class_order(order)
    except ValueError as error:
        return [str(error)]
    return []
