"""`export_statistics`: what a run that goes on from an adapter needs lies beside it."""

from __future__ import annotations

import torch
from loop_case import digest
from test_kept_features import images_through, trainer_of

from hf_cl.checkpoints.statistics_files import STATISTICS_FILE, load_statistics
from hf_cl.methods import frozen, linear_probe


def test_every_adapter_has_the_statistics_of_its_classes(tmp_path):
    trainer = trainer_of(tmp_path / "with", frozen(), export_statistics=True)
    trainer.fit()
    plain = trainer_of(tmp_path / "without", frozen())
    plain.fit()
    assert digest(tmp_path / "with") == digest(tmp_path / "without")
    assert not [*(tmp_path / "without").rglob(STATISTICS_FILE)]
    for session in range(3):
        saved = load_statistics(tmp_path / "with" / "adapters" / f"session-{session}")
        assert saved.class_names == trainer.session.class_names[: 2 * session + 2]
        assert saved.statistics.sessions == (*range(session + 1),) and saved.statistics.classes == (*range(2 * session + 2),)
        for label in saved.statistics.classes:
            assert torch.equal(saved.statistics.factor(label), trainer.statistics.factor(label))
        assert int(saved.head["voted"]) == 0 and saved.head["curves"].any()  # nine images a class: too few to vote


def test_a_head_that_reads_no_statistics_has_counts_and_means_beside_it(tmp_path):
    trainer = trainer_of(tmp_path, linear_probe(epochs=1), export_statistics=True)
    seen = images_through(trainer)
    trainer.fit()
    saved = load_statistics(tmp_path / "adapters" / "session-2")
    assert [saved.statistics.count(c) for c in range(6)] == [9] * 6 and saved.statistics.kinds == frozenset()
    assert sum(seen) == 3 * (18 + 18 + 8)  # those of the phase are augmented, so a pass of its own
