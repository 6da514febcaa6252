"""What a search costs, what it takes, and that it goes on: by measured functions instead of runs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hf_cl.methods import LoraSettings
from hf_cl.tuning.choice import Candidate, Measured, Plan, choose, expected_maximum
from hf_cl.tuning.space import Range, Space, flags_of, space_of

pytest.importorskip("optuna", reason="the extra tune is not installed")
from hf_cl.tuning.search import Search

IMAGES = 1000
BASE = {"learning_rate": 1e-3, "weight_decay": 0.01}
BOX = Space((Range("learning_rate", 1e-4, 1e-1, log=True), Range("weight_decay", 1e-4, 1.0, log=True)), BASE)


class Bowl:
    """A quadratic in the logarithms of both settings, measured on images by lot."""

    def __init__(self, seed: int, *, height: float = 0.3, best=(1e-2, 0.05)) -> None:
        self.lots, self.height, self.best, self.calls = np.random.default_rng(seed), height, best, []

    def truth(self, values) -> float:
        off = [math.log10(value / best) for value, best in zip(values.values(), self.best, strict=True)]
        return max(0.05, 0.8 - self.height * sum(one * one for one in off))

    def __call__(self, points, length):
        self.calls += [(length, point) for point in points]
        return [Measured(float(self.lots.binomial(IMAGES, self.truth(point))) / IMAGES, IMAGES, 1.0) for point in points]


def searched(folder, bowl, budget=16.0, seed=0, **how):
    search = Search(folder, BOX, Plan(budget, share=0.25), seed=seed)
    return search.run(bowl, **how)


# Equality
@pytest.mark.parametrize(
    ("budget", "share", "short", "least", "most"),
    [  # by hand: the base 1, a candidate share + 1 where it goes on
        (2, 0.25, 0.0, 1, 1),  # 1 is left, which a short run and a full one would overdraw
        (2.25, 0.25, 0.25, 1, 1),
        (8, 0.25, 0.25, 5, 24),  # 7 / 1.25, and from 5.75 short runs on nothing more is asked
        (16, 0.25, 0.25, 12, 56),
        (33, 0.25, 0.25, 25, 124),
        (8, 1.0, 0.0, 7, 7),
    ],
)
def test_what_a_budget_pays_for(budget, share, short, least, most):
    plan = Plan(budget, share=share)
    assert plan.short == short

    def asked(goes_on):
        found: list[Candidate] = []
        while plan.may_ask(found):
            full = Measured(0.5, IMAGES) if goes_on or not plan.short else None
            found.append(Candidate(len(found) + 1, {}, Measured(0.5, IMAGES), full))
        assert plan.spent(found) <= budget
        return len(found)

    assert asked(True) == least and asked(False) == most


def test_seeds_cost_and_too_small_a_budget_is_refused():
    plan = Plan(16, seeds=3, share=0.25)
    assert plan.spent([Candidate(1, {}, Measured(0.5, 9), Measured(0.5, 9))]) == 3 + 0.25 + 3
    for budget, seeds in ((1, 1), (5, 3)):
        with pytest.raises(ValueError, match=f"must be at least {2 * seeds}, twice --seeds"):
            Plan(budget, seeds)


def test_the_same_seed_asks_for_the_same_candidates_and_never_overdraws(tmp_path):
    one, two = Bowl(0), Bowl(0)
    first, second = searched(tmp_path / "a", one), searched(tmp_path / "b", two)
    assert one.calls == two.calls and first == second
    assert Plan(16, share=0.25).spent(first) <= 16
    other = Bowl(0)
    searched(tmp_path / "c", other, seed=1)
    assert other.calls != one.calls
    lengths = [length for length, _ in one.calls]
    assert lengths.count("full") < lengths.count("short") + 1 and lengths[0] == "full"  # the base


def measured(number, accuracy, images=IMAGES, **values):
    return Candidate(number, BASE | values, None, Measured(accuracy, images))


def test_of_ties_the_smaller_change_wins():
    far, near = measured(1, 0.70, learning_rate=1e-1), measured(2, 0.69, learning_rate=1e-2)
    found = choose([measured(0, 0.50), far, near], BOX)
    assert found.taken == near and found.best == far
    assert choose([measured(0, 0.50), far, measured(2, 0.66, learning_rate=1e-2)], BOX).taken == far  # below by more than an error


def test_the_base_stays_unless_it_is_beaten_by_more_than_luck():
    error = Measured(0.5, IMAGES).error
    assert error == pytest.approx(math.sqrt(0.25 / IMAGES))
    for rivals, luck in ((1, 0.0), (2, 1 / math.sqrt(math.pi)), (8, 1.4236)):
        assert expected_maximum(rivals) == pytest.approx(luck, abs=1e-4)
        needed = error * (math.sqrt(2) + luck)
        below = [measured(k, 0.5 + needed * 0.99, learning_rate=0.01 * k) for k in range(1, rivals + 1)]
        above = [*below[:-1], measured(rivals, 0.5 + needed * 1.01, learning_rate=0.05)]
        assert choose([measured(0, 0.5), *below], BOX).taken.number == 0
        assert choose([measured(0, 0.5), *above], BOX).taken.number == rivals


# It goes on
def test_a_search_that_was_killed_goes_on_and_pays_nothing_twice(tmp_path):
    whole = Bowl(3)
    wanted = searched(tmp_path / "whole", whole, budget=8)

    class Killed(Exception):
        pass

    class Cut(Bowl):
        def __call__(self, points, length):
            if len(self.calls) == 6:
                raise Killed
            return super().__call__(points, length)

    cut = Cut(3)
    with pytest.raises(Killed):
        searched(tmp_path / "cut", cut, budget=8)
    known = Search(tmp_path / "cut", BOX, Plan(8, share=0.25)).candidates()
    rest = Bowl(4)
    found = searched(tmp_path / "cut", rest, budget=8)
    assert found[: len(known)] == known and len(known) >= 3
    assert whole.calls[6][1] in [point for _, point in rest.calls]  # what it was at
    assert Plan(8, share=0.25).spent(found) <= 8 and len(found) >= len(wanted) - 2


def test_two_processes_share_one_budget(tmp_path):
    here, there = Bowl(0), Bowl(1)

    def beside(points, length):
        if len(here.calls) == 4:  # another process comes in the middle, finds this one's candidate held, and spends what is left
            other = Search(tmp_path, BOX, Plan(8, share=0.25))
            other.run(there)
            assert other.waits_for() == 1
            assert there.calls
        return here(points, length)

    search = Search(tmp_path, BOX, Plan(8, share=0.25))
    found = search.run(beside)
    assert there.calls and search.waits_for() == 0
    assert not {str(point) for _, point in here.calls} & {str(point) for _, point in there.calls}
    assert len(found) == len({str(one.values) for one in found}) and Plan(8, share=0.25).spent(found) <= 8


def test_another_question_in_the_same_folder_is_refused(tmp_path):
    Search(tmp_path, BOX, Plan(8))
    with pytest.raises(ValueError, match=r"was asked for something else \(over\)"):
        Search(tmp_path, Space(BOX.ranges[:1], BASE), Plan(8))


def test_a_candidate_that_diverges_is_the_worst(tmp_path):
    def measure(points, length):
        diverges = [point["learning_rate"] > 5e-3 for point in points]
        return [Measured(None, 0) if one else Measured(0.6, IMAGES) for one in diverges]

    found = searched(tmp_path, measure, budget=6)
    assert any(one.short is not None and one.short.accuracy is None for one in found)
    assert all(one.full is not None and one.full.accuracy is not None for one in found if one.full)
    assert choose(found, BOX).taken.number == 0


# Mechanism
@pytest.mark.slow
def test_it_finds_an_optimum_and_keeps_a_base_that_nothing_beats(tmp_path):
    near, kept, told, true = 0, 0, [], []
    for seed in range(10):
        bowl = Bowl(seed)
        taken = choose(searched(tmp_path / f"bowl-{seed}", bowl, seed=seed), BOX).taken
        near += all(best / 3 <= value <= best * 3 for value, best in zip(taken.values.values(), bowl.best, strict=True))
        flat = Bowl(seed, height=0.0)
        chosen = choose(searched(tmp_path / f"flat-{seed}", flat, seed=seed), BOX)
        kept += chosen.taken.number == 0
        assert chosen.best.full is not None
        told.append(chosen.best.full.worth)  # what choosing by these images reports
        true.append(flat.truth(chosen.best.values))
    assert near >= 9 and kept >= 8, (near, kept)
    assert np.mean(told) > np.mean(true) + 0.005  # the best of several is lucky: another set of images would say less


# The box
def test_usual_ranges_and_those_that_are_named():
    settings = LoraSettings(learning_rate=1e-3)
    usual = space_of(settings, ["learning_rate", "weight_decay", "r", "epochs"])
    rate, decay, rank, epochs = usual.ranges
    assert (rate.low, rate.high, rate.log) == (1e-4, 1e-2, True)
    assert {0.0, 0.1, 0.3, 1.0, 3.0, 10.0} <= {*decay.choices} and {2, 4, 8, 16} <= {*rank.choices}
    assert epochs.whole and epochs.high == settings.epochs
    assert [one.name for one in space_of(settings, []).ranges] == ["learning_rate", "weight_decay"]
    head = space_of(settings, ["head.shrinkage=0.01:1:log", "augmentation=none,crop_flip"])
    assert head.ranges[0].at(0.5) == 0.1 and head.ranges[1].choices == ("none", "crop_flip")
    assert flags_of(settings, {"head.shrinkage": 0.1, "r": 4})[1] == "--r=4"
    assert "shrinkage: 0.1" in flags_of(settings, {"head.shrinkage": 0.1})[0] and "type:" in flags_of(settings, {"head.shrinkage": 0.1})[0]


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (["learning_rat"], r"unknown setting 'learning_rat'.*Did you mean 'learning_rate'"),
        (["classes_per_session=2,5"], r"it says which images there are"),
        (["seed=0,1"], r"the best of several seeds is the luckiest one"),
        (["num_workers=1,2"], r"it changes no result"),
        (["learning_rate=0:1:log"], r"LOW lies below HIGH, and above 0"),
        (["learning_rate=1e-3"], r"a search needs two values"),
        (["batch_size"], r"say between which values, batch_size=LOW:HIGH"),
        (["r=2,4", "r=8,16"], r"names r twice"),
    ],
)
def test_what_cannot_be_searched_is_refused(over, message):
    with pytest.raises(ValueError, match=message):
        space_of(LoraSettings(), over)


def test_distance_is_a_share_of_the_range():
    assert BOX.distance(BASE) == 0
    assert BOX.distance(BASE | {"learning_rate": 1e-2}) == pytest.approx(1 / 3)
    named = Space((Range("augmentation", choices=("none", "flip")),), {"augmentation": "none"})
    assert named.distance({"augmentation": "flip"}) == 1
