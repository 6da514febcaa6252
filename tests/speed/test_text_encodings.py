"""How often class names are encoded: in a training step those of the session, in an evaluation all of them once."""

from __future__ import annotations

from speed_runs import METHODS, build, record, record_of

from hf_cl.contracts import Method, Phase, everything
from hf_cl.losses import MaskedCrossEntropy

STEPS = 3


def test_a_step_encodes_the_new_classes_alone():
    assert [step.texts for step in record_of("CPE_CLIP").steps] == [[2]] * (3 * STEPS)


def test_an_evaluation_encodes_all_classes_once(tmp_path):
    """However many tests and batches it has: here three tests, in one batch each and in four."""
    in_batches = record(build("CPE_CLIP", tmp_path, sessions=3, eval_batch_size=2))
    assert record_of("CPE_CLIP").texts == in_batches.texts == [[2], [4], [6]]


def test_a_loss_among_all_classes_costs_all_texts(tmp_path):
    method = METHODS["CPE_CLIP"]()
    phases = [Phase("train", 1, [MaskedCrossEntropy("seen")], everything)]
    trainer = build("CPE_CLIP", tmp_path, method=Method(**{**vars(method), "phases": lambda session: phases}))
    assert [step.texts for step in record(trainer).steps] == [[2]] * STEPS + [[4]] * STEPS
