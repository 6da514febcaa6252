"""The package's classes against the official code's numbers, on transformers and on open_clip."""

from __future__ import annotations

import cpe_reference as reference
import pytest
import torch
import torch.nn.functional as F
import two_towers

CASES = reference.arrays("cases")
IMAGES, LABELS = CASES["images"], CASES["labels"]
FIRST_NEW = reference.META["masked_loss_first_new_class"]
everywhere = pytest.mark.parametrize("kind", reference.BASES)
cases = pytest.mark.parametrize("case", reference.CASES)


def test_the_tokenizer_reads_class_names_as_the_reference_does():
    ids = two_towers.tokenizer()([f"{name}." for name in reference.CLASS_NAMES], padding=True, return_tensors="pt")
    assert torch.equal(ids["input_ids"], CASES["input_ids"])
    assert torch.equal(ids["attention_mask"].long(), CASES["attention_mask"].long())


@everywhere
@cases
def test_logits_loss_and_gradients(kind, case):
    model = reference.adapted(kind, reference.case_config(case), CASES, case)
    classifier = reference.classifier(model).train()
    logits = classifier(IMAGES)[1]
    torch.testing.assert_close(logits, CASES[f"{case}/logits"], atol=reference.TOLERANCE["logits"], rtol=0)
    loss = F.cross_entropy(logits, LABELS)
    torch.testing.assert_close(loss, CASES[f"{case}/loss"], atol=reference.TOLERANCE["loss"], rtol=0)
    loss.backward()
    for name, parameter in reference.prompts(model).items():
        assert reference.relative(parameter.grad, CASES[f"{case}/grad_{name}"]) < reference.TOLERANCE["grad_rel"], name
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@everywhere
@cases
def test_loss_of_a_later_session_encodes_its_classes_alone(kind, case):
    """The official code computes all columns and sets the old ones to -9999."""
    model = reference.adapted(kind, reference.case_config(case), CASES, case)
    classifier = reference.classifier(model).train()
    classifier.head.training_classes = range(FIRST_NEW, len(reference.CLASS_NAMES))
    new = LABELS >= FIRST_NEW
    logits = classifier(IMAGES[new])[1]
    assert torch.isneginf(logits[:, :FIRST_NEW]).all() and logits[:, FIRST_NEW:].isfinite().all()
    loss = F.cross_entropy(logits, LABELS[new])
    torch.testing.assert_close(loss, CASES[f"{case}/masked_loss"], atol=reference.TOLERANCE["loss"], rtol=0)
    loss.backward()
    for name, parameter in reference.prompts(model).items():
        assert reference.relative(parameter.grad, CASES[f"{case}/masked_grad_{name}"]) < reference.TOLERANCE["grad_rel"], name


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_under_checkpointing(reentrant):
    model = reference.adapted("sdpa", reference.case_config("default"), CASES, "default")
    two_towers.enable_checkpointing(model.get_base_model(), reentrant)
    F.cross_entropy(reference.classifier(model).train()(IMAGES)[1], LABELS).backward()
    for name, parameter in reference.prompts(model).items():
        assert reference.relative(parameter.grad, CASES[f"default/grad_{name}"]) < reference.TOLERANCE["grad_rel"], name


@pytest.mark.parametrize("kind", ["sdpa", "open_clip"])
def test_the_disabled_adapter_is_zero_shot_clip(kind):
    model = reference.adapted(kind, reference.case_config("default"), CASES, "default")
    classifier = reference.classifier(model).eval()
    with torch.no_grad(), model.disable_adapter():
        logits = classifier(IMAGES)[1]
    torch.testing.assert_close(logits, CASES["zero_shot_logits"], atol=reference.TOLERANCE["logits"], rtol=0)
