"""What is refused before a session trains."""

from __future__ import annotations

import pytest
from losses.fakes import Labels

from hf_cl.contracts import LossTerm, Phase, Session, everything
from hf_cl.losses import Consistency, SupervisedContrastive
from hf_cl.settings import TrainingSettings
from hf_cl.training.needs import num_model_views, num_views
from hf_cl.training.session_checks import check_session

ROLES = ("teacher", "base")


def needs(*names: str) -> LossTerm:
    term = LossTerm()
    term.name, term.needs = "mine", frozenset(names)
    return term


def check(*terms: LossTerm, roles=ROLES, **phase) -> None:
    session = Session(0, ("a",), ("a",), train=Labels([0]), tests=())  # type: ignore[arg-type]
    check_session(session, [Phase("train", 1, terms, everything, **phase)], TrainingSettings(), 1, roles)


def test_the_roles_of_the_adapter_can_be_needed():
    check(SupervisedContrastive(["teacher"]), Consistency())


@pytest.mark.parametrize(
    ("term", "roles", "message"),
    [
        (needs("techer"), ROLES, r"needs \['techer'\], which this loop does not provide. Did you mean 'teacher'\?"),
        (needs("two_view"), ROLES, "Did you mean 'two_views'"),
        (needs("tokens", "zzz"), (), r"\['tokens', 'zzz'\], which this loop does not provide. It provides all_classes, frozen_view, index"),
        (SupervisedContrastive(["base_teacher"]), (), r"'supervised_contrastive' needs \['base_teacher'\]"),
        (Consistency(), (), r"'consistency' needs \['base'\]"),
    ],
)
def test_what_nobody_provides_is_refused_with_the_nearest_name(term, roles, message):
    with pytest.raises(ValueError, match=message):
        check(term, roles=roles)


@pytest.mark.parametrize("need", ["two_views", "frozen_view", "pretrained", "teacher"])
def test_a_features_phase_has_no_images(need):
    with pytest.raises(ValueError, match="'mine' needs images; phase 'train' runs on features"):
        check(needs(need), inputs="features")


@pytest.mark.parametrize(
    ("found", "drawn", "through_the_model"),
    [((), 1, 1), (("frozen_view",), 2, 1), (("two_views",), 2, 2), (("two_views", "frozen_view"), 2, 2)],
)
def test_views(found, drawn, through_the_model):
    phase = Phase("train", 1, [needs(), needs(*found)], everything)
    assert (num_views(phase), num_model_views(phase)) == (drawn, through_the_model)
