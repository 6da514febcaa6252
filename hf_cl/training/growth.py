"""The adapter in its place: injected when session 0 begins, grown by what each later session brings."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from peft import get_peft_model

from hf_cl.backbones import classifier_of, enable_gradient_checkpointing
from hf_cl.checkpoints.tensors import before_head
from hf_cl.contracts import Session
from hf_cl.memory.class_statistics import ClassStatistics
from hf_cl.training.calibration import Calibration
from hf_cl.training.checks import check_unused
from hf_cl.training.coming_sessions import check_coming, declared_statistics
from hf_cl.training.compiling import compile_backbone
from hf_cl.training.feature_cache import FeatureCache
from hf_cl.training.feature_files import FeatureFiles
from hf_cl.training.frozen import FrozenStates
from hf_cl.training.kept_queries import KeptQueries
from hf_cl.training.loading_check import BareBase
from hf_cl.training.run import ADAPTER, Run


def grow(run: Run, session: Session) -> None:
    """Class names and head rows of a new session; the first one injects the adapter, and makes what reads its model.

    Raises ValueError for a backbone that was used, and for what the checks of the sessions to come refuse.
    """
    names = list(session.new_class_names)
    if run._model is not None:
        run.classifier.read_names(names)
        run.tuner.grow(ADAPTER, names)
        run.tuner.grow_domains(ADAPTER, session.domain_names)
        _write_texts(run)
        return
    check_unused(run.backbone)
    model = _injected(run, names)
    run._model = model.to(run.accelerator.device)
    run.tuner.grow_domains(ADAPTER, session.domain_names)
    if run.settings.gradient_checkpointing:
        enable_gradient_checkpointing(run.backbone)
    if run.accelerator.compiled_by != "no":
        compile_backbone(run.backbone, **run.accelerator.compile_arguments)
    run.classifier = classifier_of(model, run.tokenizer, ADAPTER)
    _write_texts(run)
    check_coming(run)
    _make_readers(run)
    kinds = declared_statistics(run)
    run.statistics = ClassStatistics(kinds) if run.start is None else run.start.statistics(kinds, run.head)
    run.calibration = Calibration()


def _injected(run: Run, names: list[str]) -> Any:
    """The base with the method's adapter, or with the one that the run starts from."""
    if run.start is not None:
        if tuple(names) != run.start.class_names:
            raise ValueError("Session 0 of a run that starts from an adapter brings that adapter's classes, in its order.")
        return run.start.inject(run.backbone, ADAPTER)
    run.bare = BareBase(run.backbone) if run.position.session == 0 else None
    config = deepcopy(run.method.adapter)  # the method's own stays as it is, for another run
    config.class_names, config.classes_per_session = names, [len(names)]
    if run.texts is not None:
        config.head |= run.texts.filled_in
    return get_peft_model(run.backbone, config, adapter_name=ADAPTER)  # pyright: ignore[reportArgumentType]


def _make_readers(run: Run) -> None:
    """What asks the model for other states of it, and for features of whole data sets."""
    run.frozen = FrozenStates(run.classifier, run.accelerator, run.tuner)
    files, asked = _feature_files(run), run.tuner.query_pass()
    run.queries = None if asked is None else KeptQueries(run.images, run.classifier, asked, files)
    lies_before = lambda: before_head(run.model, run.tuner.prefix, run.head)  # noqa: E731
    run.features = FeatureCache(run.images, run.classifier, run.frozen, lies_before, files, run.queries)


def _feature_files(run: Run) -> FeatureFiles | None:
    """What `--feature_cache` keeps."""
    if run.settings.feature_cache is None:
        return None
    folder, precision = Path(run.settings.feature_cache).expanduser(), str(run.accelerator.mixed_precision)
    return FeatureFiles(folder, run.model, run.tuner.prefix, run.config, run.images.preprocessor, precision)


def _write_texts(run: Run) -> None:
    """What the names of the classes so far say, to a head that judges by it."""
    if run.texts is not None:
        run.head.write_texts(run.texts.rows(run.config.class_names), run.texts.projection)
