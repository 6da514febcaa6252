"""How often the backbone runs in a step, and that nothing frozen gets a gradient."""

from __future__ import annotations

import pytest
from speed_runs import METHODS, record_of

BATCH, STEPS, BLOCKS = 8, 3, range(6)


@pytest.mark.parametrize(("kind", "forwards"), [("ONE_PROMPT", 1), ("CPE_CLIP", 1), ("SARA", 1), ("LoRA", 1), ("GLAD", 2)])
def test_as_many_forwards_as_the_method_needs(kind, forwards):
    """GLAD has the gradient at two points."""
    for step in record_of(kind).steps:
        assert step.passes(graph=True) == [BATCH] * forwards and step.passes(graph=False) == []
        assert len(step.blocks) == forwards * len({block for block, _, _ in step.blocks})


def test_coact_runs_its_teacher_once_and_shares_the_frozen_blocks():
    """Session 0: student and teacher. Later: student, base, base teacher, and of the pre-trained model the two unfrozen blocks alone."""
    for number, step in enumerate(record_of("ASYNC_LORA").steps):
        frozen = sorted(block for block, _, kept in step.blocks if not kept)
        assert frozen == sorted(BLOCKS if number < STEPS else [*BLOCKS, *BLOCKS, 4, 5])
        assert step.passes(graph=False) == [BATCH] * (1 if number < STEPS else 3)
        assert step.passes(graph=True) == [BATCH]  # the second view is the frozen states' alone


@pytest.mark.parametrize("kind", METHODS)
def test_frozen_weights_have_no_gradient(kind):
    assert [step.left_gradients for step in record_of(kind).steps] == [[]] * (3 * STEPS)
