"""OVOR's session as the official code ran it: two epochs of cross-entropy, two of VOR, one Adam, the lagging schedule (float64)."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from ovor_reference import CLASSES, PROMPTS, load, prompted_vit

from hf_cl.backbones import FeatureClassifier, ImageClassifier
from hf_cl.checkpoints.tensors import named_parameters
from hf_cl.contracts import Session
from hf_cl.losses import VirtualOutliers
from hf_cl.methods import ovor
from hf_cl.training.prepare import prepare_phase, release_phase
from hf_cl.training.step import MicroBatch, Stepper

NUMBERS = load("train_oneprompt_vor")


class StoredOutliers(VirtualOutliers):
    """The fixture's outliers in place of synthesized ones: the synthesis has tests of its own."""

    def use(self, head, outliers):
        self._head, self._first, self._rank, self._world = head, 3, 0, 1
        self._outliers, self._slice_size, self._step = outliers, len(outliers), 0


def check(tag, model, losses):
    torch.testing.assert_close(torch.tensor(losses, dtype=torch.float64), NUMBERS[f"{tag}.losses"], atol=1e-10, rtol=0)
    for name, index in PROMPTS.items():
        layer = model.base_model.model.vit.layers[index].attention
        rows = torch.cat([layer.one_prompt_k["default"], layer.one_prompt_v["default"]])
        torch.testing.assert_close(rows, NUMBERS[f"{tag}.prompt.{name}"], atol=1e-10, rtol=0)
    head = model.base_model.head_wrapper().head("default")
    torch.testing.assert_close(head.weight.detach(), NUMBERS[f"{tag}.last.weight"], atol=1e-10, rtol=0)
    assert torch.equal(head.weight[:3], NUMBERS["init.last.weight"][:3]), "rows of earlier classes moved"


@pytest.fixture
def session():
    return Session(id=1, class_names=tuple(CLASSES), new_class_names=tuple(CLASSES[3:]), train=(), tests=())


def test_two_epochs_of_cross_entropy_and_two_of_vor(session):
    model = prompted_vit({n: NUMBERS[f"init.prompt.{n}"] for n in PROMPTS}, NUMBERS["init.last.weight"], NUMBERS["init.last.bias"])
    head, outliers = model.base_model.head_wrapper().head("default"), StoredOutliers()
    method = ovor(epochs=2, vor_epochs=2, outliers=outliers)
    classifier = ImageClassifier(model.get_base_model(), model.base_model.head_wrapper())
    named = named_parameters(model, "one_prompt_", head, [])
    optimizer, schedule = method.optimizer(session, named)
    accelerator, session_epoch, step, given = Accelerator(cpu=True), 0, 0, model.base_model.given
    for phase in [phase for phase in method.phases(session) if phase.epochs]:
        for name, parameter in named:
            parameter.requires_grad_(phase.trainable(name))
        bare = classifier if phase.inputs == "images" else FeatureClassifier(head)
        prepared, prepared_optimizer = prepare_phase(accelerator, bare, optimizer)
        prepared.train()
        stepper = Stepper(phase, session, method.rule, prepared, prepared_optimizer, named, accelerator, None, None, given)
        for epoch in range(phase.epochs):
            tag = f"ce_epoch{session_epoch}" if phase.name == "train" else f"ood_epoch{session_epoch}"
            losses = []
            for number in range(len(NUMBERS[f"{tag}.losses"])):
                if phase.name == "train":
                    batch = {"pixel_values": NUMBERS["pixel_values"][number], "labels": NUMBERS["labels"][number]}
                else:
                    batch = {"features": NUMBERS[f"{tag}.id_feats.{number}"], "labels": NUMBERS[f"{tag}.id_labels.{number}"]}
                    outliers.use(head, NUMBERS[f"{tag}.oods.{number}"])
                stepper.step([MicroBatch(batch, 1.0)], epoch, step, schedule(session_epoch, number))
                losses.append(sum(float(value) for value in stepper._sums.values()))
                stepper._sums.clear()
                step += 1
            assert optimizer.param_groups[0]["lr"] == pytest.approx(float(NUMBERS["lrs"][session_epoch]), abs=1e-15)
            check(tag, model, losses)
            session_epoch += 1
        release_phase(accelerator, prepared)


def test_the_prompts_rest_while_the_head_meets_outliers(session):
    vor = ovor(warmup_epochs=1).phases(session)[-1]
    assert vor.name == "vor" and vor.inputs == "features"
    assert vor.trainable("head.weight") and not vor.trainable("vit.layers.0.attention.one_prompt_k.default")


def test_the_head_warms_up_from_session_1_on(session):
    first = Session(id=0, class_names=tuple(CLASSES[:3]), new_class_names=tuple(CLASSES[:3]), train=(), tests=())
    assert [phase.epochs for phase in ovor(warmup_epochs=3).phases(session)] == [3, 16, 4]
    assert [phase.epochs for phase in ovor(warmup_epochs=3).phases(first)] == [0, 16, 4]
