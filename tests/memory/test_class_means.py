"""Means of earlier classes among the rows of a features phase: what they are, how many, across a resume, and who is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loop_case import backbone, processor
from stream import AgainStream, Stream

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import FeatureSet, Probe
from hf_cl.memory import ClassMeans
from hf_cl.memory.exemplars import FOREIGN
from hf_cl.memory.joined import joined
from hf_cl.methods import etf, lora
from hf_cl.methods.etf import EtfSettings
from hf_cl.methods.with_memory import with_memory


class Trainer:
    def features_of(self, dataset):
        index = torch.as_tensor(np.asarray(dataset.indices))
        features = torch.stack([torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(int(i))) for i in index])
        return FeatureSet(features, torch.as_tensor(np.asarray(dataset.labels)), index)


def test_means_and_how_often_they_stand():
    sessions = list(AgainStream())
    memory = ClassMeans(copies=[3, 1, 2], base_copies=2)
    memory.begin_run(sessions, resumed=False)
    assert memory.sizes() == [0, 4, 4 + 2, 4 + 4] and memory.images(sessions[0]) is None and len(memory) == 0
    for session in sessions[:3]:
        memory.end_session(Trainer(), session)  # pyright: ignore[reportArgumentType]
    kept = memory.images(sessions[3])
    assert kept.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and kept.indices.min() >= FOREIGN  # pyright: ignore[reportOptionalMemberAccess]
    data = [Trainer().features_of(sessions[t].train) for t in (0, 1, 2)]
    ones = torch.cat([found.features[found.labels == 1] for found in data])  # those of session 0, and those that came again
    torch.testing.assert_close(kept.rows.features[2], ones.double().mean(0).float())  # pyright: ignore
    other = ClassMeans(copies=[3, 1, 2], base_copies=2)
    other.begin_run(sessions, resumed=True)
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.images(sessions[3]).rows.features, kept.rows.features) and other.sizes() == memory.sizes()  # pyright: ignore
    with pytest.raises(TypeError, match="only features are kept"):
        joined(sessions[3].train, kept)[len(sessions[3].train)]


class Seen(Probe):
    """What the steps of a run saw."""

    name = "seen"

    def __init__(self) -> None:
        self.sessions: dict[int, list[tuple[int, int, bool]]] = {}

    def after_step(self, trainer) -> None:
        for context in trainer.contexts:
            rows = (
                zip(context.labels.tolist(), context.batch["index"].tolist(), context.batch["replayed"].tolist(), strict=True)
                if ("replayed" in context.batch)
                else [(label, 0, False) for label in context.labels.tolist()]
            )
            self.sessions.setdefault(trainer.session.id, []).extend(rows)


def trained(folder, method, stream, probes=(), **settings) -> ContinualTrainer:
    values = {"batch_size": 8, "eval_batch_size": 8, "augmentation": "none", "cpu": True, "output_dir": str(folder), **settings}
    return ContinualTrainer(backbone(0.0), processor(), method, stream, TrainingSettings(**values), probes=list(probes), quiet=True)


def test_a_run_trains_on_images_of_the_session_and_means_of_the_others(tmp_path):
    seen, steps = Seen(), []
    method = etf(epochs=1, session_epochs=1, head={"num_classes_total": 6}, memory={"type": "class_means", "copies": 4})
    asked = method.phases
    object.__setattr__(method, "phases", lambda session: steps.append(session.steps_per_epoch()) or asked(session))
    trainer = trained(tmp_path, method, Stream(3), [seen])
    results = trainer.fit()
    assert steps[-3:] == [3, -(-(18 + 8) // 8), -(-(18 + 16) // 8)]
    for number, means in ((1, 8), (2, 16)):
        rows = seen.sessions[number]
        assert len(rows) == 18 + means and sum(replayed for *_, replayed in rows) == means
        assert {label for label, _, replayed in rows if replayed} == set(range(2 * number))
    assert results.kept_images == 0 and trainer.memory is not None


def test_what_would_train_on_images_is_refused(tmp_path):
    method = with_memory(lora(epochs=1, loss_scope="seen"), {"type": "class_means"})
    with pytest.raises(ValueError, match=r"keeps features and no image.* phase 'train' of session 1 trains on images"):
        trained(tmp_path, method, Stream(2))
    with pytest.raises(ValueError, match="copies must be 1 or more"):
        ClassMeans(copies=[1, 0])
    with pytest.raises(ValueError, match="leave memory_dir out"):
        ClassMeans(folder="copies")
    with pytest.raises(ValueError, match="head of type linear does not replace"):
        EtfSettings(head={"type": "linear"}).method()


def test_a_frame_without_room_is_refused_before_training(tmp_path):
    trainer = trained(tmp_path, etf(epochs=1, head={"num_classes_total": 5}), Stream(3))
    with pytest.raises(ValueError, match=r"room for 5 classes and 6 will come.*num_classes_total: 6"):
        trainer.fit()
    assert not (tmp_path / "adapters").exists()
