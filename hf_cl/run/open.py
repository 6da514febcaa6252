"""What the settings name: the sessions, and the base."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import nn

from hf_cl.backbones import load_backbone, load_processor, load_tokenizer, load_two_towers
from hf_cl.checkpoints.taught import begun_classes
from hf_cl.contracts import Method, Scenario
from hf_cl.hub.fetch import adapter_folder
from hf_cl.images import PixelStore
from hf_cl.results.display import without_folders
from hf_cl.results.picture_record import known_to, read_pictures
from hf_cl.run.first_checks import check_settings
from hf_cl.run.look_at_pictures import PictureCheck, picture_check
from hf_cl.run.pictures import compare_pictures
from hf_cl.scenarios import SCENARIOS, ImageSource, KnownPictures, SessionStream, open_images
from hf_cl.scenarios.exclude import read_excluded, without
from hf_cl.scenarios.picture_check import Seen
from hf_cl.settings import RunSettings
from hf_cl.training.start import Start, open_start


def open_scenario(
    settings: RunSettings,
    store: PixelStore | None = None,
    *,
    quiet: bool = True,
    start: Start | None = None,
    seen: Seen | None = None,
) -> Scenario:
    """The data, checked, as sessions of the protocol the settings name. A protocol's arguments are the settings of the same names, and
    `protocol_options`.

    What can be refused before any data is read is refused first, by `check_settings`; whoever opened a `store`, which keeps the pixels of
    what is decoded here, has asked it before. Unless `quiet`, a bar shows how far the look at the images is. The classes of `start` are
    session 0, whether the data have images of them or not. `seen` is shown every picture that is decoded on the way.

    Raises ValueError and HubError as `check_settings`; DataError for faulty data.
    """
    if store is None:
        check_settings(settings)
    protocol, check = SCENARIOS[settings.protocol], picture_check(settings.check_images, store, quiet=quiet, seen=seen)
    taught = begun_classes(Path(settings.output_dir) / "checkpoints") if settings.resume == "auto" else []
    begun = bool(taught)
    if start is not None and not begun:
        taught = [[*start.class_names]]
    known = vars(settings) | {"taught": taught}
    if settings.class_order is None:
        del known["class_order"]  # each protocol has its own
    arguments = {name: known[name] for name in inspect.signature(protocol).parameters if name != "source" and name in known}
    arguments |= settings.protocol_options
    targets: list[ImageSource] = []
    if "targets" in arguments:
        arguments["targets"] = targets = [_open_source(settings, target, check) for target in settings.targets]
    source = _open_source(settings, settings.dataset, check, [name for session in taught for name in session])
    before = list(read_pictures(Path(settings.output_dir))) if begun else []
    if start is not None:
        source, before = source.with_classes(start.class_names), before or known_to(start.folder)
    if not before and start is None:
        return _asked_for(_without_excluded(protocol(source, **arguments), settings), settings)
    pictures = KnownPictures((picture.content, picture.name, picture.part, picture.session) for picture in before)
    if "targets" in arguments:
        arguments["targets"] = [dataclasses.replace(target, known=pictures) for target in targets]
    scenario = _without_excluded(protocol(dataclasses.replace(source, known=pictures), **arguments), settings)
    compare_pictures(before, scenario, len(taught), strict=settings.strict_data)
    if start is not None:
        named = {"start_from": without_folders(str(settings.start_from))}
        scenario = dataclasses.replace(scenario, protocol={**scenario.protocol, "details": scenario.protocol.get("details", {}) | named})
    return _asked_for(scenario, settings)


def _asked_for(scenario: Scenario, settings: RunSettings) -> Scenario:
    """The part of the stream that the settings want; all of it by default."""
    if settings.test_on == "test" and settings.max_sessions is None:
        return scenario
    assert isinstance(scenario, SessionStream)  # what every protocol returns
    return scenario.shortened(settings.max_sessions, on_validation=settings.test_on == "validation")


def _without_excluded(stream: SessionStream, settings: RunSettings) -> SessionStream:
    if settings.exclude is None:
        return stream
    return without(stream, read_excluded(Path(settings.exclude).expanduser()), settings.exclude)


def _open_source(settings: RunSettings, dataset: str, check: PictureCheck, taught: Collection[str] = ()) -> ImageSource:
    return open_images(
        dataset,
        image_column=settings.image_column,
        label_column=settings.label_column,
        domain_column=settings.domain_column,
        test_split=settings.test_split,
        skip_bad_images=settings.skip_bad_images,
        taught=taught,
        check=check,
    )


def open_adapter(settings: RunSettings, method: Method) -> Start | None:
    """The adapter that the settings say to start from; None where they name none.

    Raises ValueError as `open_start`; HubError for what the Hub did not give.
    """
    if settings.start_from is None:
        return None
    return open_start(adapter_folder(settings.start_from, statistics=True), method, settings.backbone)


def open_processor(settings: RunSettings) -> Any:
    """The base's image processor. Raises ValueError for a base that is not there."""
    processor = load_processor(settings.backbone, revision=settings.backbone_revision)
    if not settings.normalize:
        processor.do_normalize = False  # saved with the adapter, so whoever loads it feeds the same pixels
    return processor


def open_base(settings: RunSettings, method: Method) -> tuple[nn.Module, Any, Any]:
    """The base that the method's head needs: (model, image processor, tokenizer).

    Under a text head the model has both towers; under any other head it is one tower without a classifier, and the tokenizer is None.

    Raises ValueError for a base that is not there.
    """
    name, revision = settings.backbone, settings.backbone_revision
    tokenizer = None
    if method.adapter.has_text_head:
        model, tokenizer = load_two_towers(name, revision=revision), load_tokenizer(name, revision=revision)
    else:
        model = load_backbone(name, revision=revision)
    return model, open_processor(settings), tokenizer
