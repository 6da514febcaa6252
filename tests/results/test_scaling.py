"""Curves of methods over a key: the reference's fits and crossings, a claim where there is one and none where there is none."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from compared_runs import SETTINGS, write_run
from example_results import example_results

from hf_cl.results.power_law import PowerLaw, crossings, fit
from hf_cl.results.results import MethodRecord
from hf_cl.results.saved_run import Run, read_run
from hf_cl.results.scaling import Curve, Scaling, _pair, _Resampled, scale_curves
from hf_cl.results.scaling_page import as_json, pair_sentences, ranking_sentence, remarks, write_scaling

NUMBERS = np.load(Path(__file__).parents[1] / "reference" / "crossover" / "curves.npz")
X = NUMBERS["x"]
LAWS = [PowerLaw(A, a, E) for A, a, E in zip(NUMBERS["A"], NUMBERS["a"], NUMBERS["E"], strict=True)]


def test_crossings_are_those_of_the_reference():
    np.testing.assert_allclose(crossings(*LAWS, 1, 1e4), NUMBERS["crossings"], atol=1e-8, rtol=0)
    assert crossings(LAWS[0], LAWS[0], 1, 1e4) == [] and crossings(*LAWS, 1, 20) == []


def test_exact_curves_come_back():
    for law, found in zip(LAWS, fit(X, NUMBERS["losses"]), strict=True):
        np.testing.assert_allclose((found.A, found.a, found.E), (law.A, law.a, law.E), atol=1e-6, rtol=0)


def test_fits_are_as_good_as_those_of_the_reference():
    means = NUMBERS["noisy"].mean(1 if NUMBERS["noisy"].shape[2] == len(X) else 2)
    for i, found in enumerate(fit(X, means)):
        assert found.residual <= NUMBERS["fit_residual"][i] + 1e-12
        assert found.a == pytest.approx(NUMBERS["fit_a"][i], abs=0.002)


def test_bounds_of_a_fit():
    level, falling, rising = fit([1, 2, 4, 8], [[0.3] * 4, [0.8, 0.4, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    assert level(5) == pytest.approx(0.3, abs=1e-6) and rising(5) == pytest.approx(0.25, abs=1e-6)
    assert (falling.A, falling.a, falling.E) == pytest.approx((0.8, 1, 0), abs=1e-6)
    (three,) = fit([1, 2, 4], [0.8, 0.5, 0.4], saturating=False)
    assert three.E == 0
    with pytest.raises(ValueError, match="needs positive x"):
        fit([0, 1, 2], [1, 1, 1])


def curves(laws, generator, sd=0.01, seeds=5, x=X) -> list[Curve]:
    """One curve a law, with noise of its own in each run."""
    found = []
    for number, law in enumerate(laws):
        runs = law(x) + generator.normal(0, sd, (seeds, len(x)))
        found.append(Curve(f"method {number}", tuple(x), tuple({str(s): runs[s, i] for s in range(seeds)} for i in range(len(x)))))
    return found


SHOTS = np.array([1.0, 2, 5, 10, 20, 60])


def claims(laws, repetitions, resamples=200):
    for repetition in range(repetitions):
        made = curves(laws, np.random.default_rng(repetition), x=SHOTS)
        yield _pair(_Resampled(made, resamples, repetition), 0, 1, 1.0)


def test_what_crosses_is_claimed_and_what_does_not_is_not():
    """The mechanism: 20 repetitions each. Of two equal curves the fits cross more often than not, which is why they are not asked.

    At 60 shots the curves are five standard errors apart; up to 32 it would be two, and half would be claimed. Over 2,000 repetitions the
    crossing is claimed in 88 of 100 cases, one between equal curves in 1 of 100, one between parallel curves never.
    """
    pairs = [*claims(LAWS, 20)]
    claimed = [pair for pair in pairs if pair.claim == "crossing"]
    assert len(claimed) >= 17
    covered = [low <= float(NUMBERS["crossings"][0]) <= high for low, high in (pair.crossing_interval for pair in claimed)]
    assert sum(covered) >= 0.8 * len(covered)
    assert not any(pair.claim == "crossing" for pair in claims([LAWS[0], replace(LAWS[0], E=LAWS[0].E + 0.03)], 20))
    assert sum(pair.claim == "crossing" for pair in claims([LAWS[0]] * 2, 20)) <= 1
    made = curves([LAWS[0]] * 2, np.random.default_rng(1))
    sampled = _Resampled(made, 300, 0)
    crossed = [bool(crossings(a, b, X[0], X[-1])) for a, b in zip(sampled.fits(0), sampled.fits(1), strict=True)]
    assert np.mean(crossed) > 0.5


def test_shared_seeds_are_resampled_together():
    """Two methods that differ by a constant in every seed differ by it in every resample."""
    made = curves([LAWS[0]], np.random.default_rng(0), sd=0.2)[0]
    worse = replace(made, label="worse", losses=tuple({draw: value + 0.01 for draw, value in at.items()} for at in made.losses))
    pair = _pair(_Resampled([made, worse], 200, 0), 0, 1, 1.0)
    assert pair.claim == "first" and all(d.interval == pytest.approx((-0.01, -0.01)) for d in pair.differences)
    other = replace(worse, losses=tuple({f"other {draw}": value for draw, value in at.items()} for at in worse.losses))
    assert _pair(_Resampled([made, other], 200, 0), 0, 1, 1.0).claim == "none"


TEMPLATE = example_results()


def run_of(method, shots, seed, error) -> Run:
    """A run whose final accuracy is 1 - error."""
    matrices = {"accuracy_matrix": [[0.9], [0.8, 0.7], [1 - error] * 3]}
    matrices |= {name: [[1.0], [1.0] * 2, [1.0] * 3] for name in ("accuracy_matrix_task_aware", "accuracy_matrix_within")}
    protocol, record = replace(TEMPLATE.protocol, shots=shots), MethodRecord(method, method.upper())
    results = replace(TEMPLATE, protocol=protocol, method=record, seed=seed, **matrices)
    return Run(Path(f"{method}-{shots}-{seed}"), results, SETTINGS | {"shots": shots, "seed": seed})


@pytest.fixture(scope="module")
def runs():
    """Two methods that cross between 1 and 32 shots, four seeds each, and a third that is always worse."""
    generator, found = np.random.default_rng(0), []
    for method, law in (("probe", LAWS[0]), ("lora", LAWS[1]), ("worse", replace(LAWS[0], E=0.35))):
        for shots in (1, 2, 4, 8, 16, 64):
            for seed in range(4):
                error = float(law(shots)) + generator.normal(0, 0.004)
                found.append(run_of(method, shots, seed, error))
    return found


def test_runs_become_curves_and_sentences(runs, tmp_path):
    scaling = scale_curves(runs, "shots", extrapolate=4)
    assert [curve.label for curve in scaling.curves] == ["probe", "lora", "worse"] and scaling.is_error
    assert scaling.curves[0].x == (1, 2, 4, 8, 16, 64)
    crossing, always, mixed = pair_sentences(scaling)
    assert crossing.startswith("probe wins at shots 1 (") and ", lora at 64 (" in crossing and "The fitted curves cross at " in crossing
    assert always.startswith("probe wins over worse at every measured value of shots (1, 2, 4, 8, 16, 64).")
    assert mixed.startswith("lora wins over worse at every measured value of shots")
    assert ranking_sentence(scaling) == (
        "The ranking at shots 1 predicts the ranking at 64 in 2 of 3 pairs; in 1 it turns round by more than the seeds explain."
    )
    assert any("fewer than five seeds" in sentence for sentence in remarks(scaling))
    page = write_scaling(tmp_path / "scale.html", scaling, "animals").read_text()
    assert crossing.replace("&", "&amp;") in page and page.count('<svg class="plot') == 2 and 'data-logx="1"' in page
    values = as_json(scaling)
    assert values["pairs"][0]["claim"] == "crossing" and values["curves"][0]["fit"]["a"] == pytest.approx(0.9, abs=0.1)
    low, high = values["pairs"][0]["crossing_interval"]
    assert low < 22.7 < high


def test_single_seeds_claim_nothing(runs):
    single = [run for run in runs if run.results.seed == 0]
    scaling = scale_curves(single, "shots")
    assert all(pair.claim == "none" for pair in scaling.pairs) and scaling.asymptotes == (None, None, None)
    assert pair_sentences(scaling)[0] == "probe and lora: single runs have no intervals, so nothing is claimed."


def test_a_single_run_in_the_middle_takes_no_claim_away(runs):
    some = [run for run in runs if run.results.seed == 0 or run.results.protocol.shots != 8]
    crossing, always, _ = pair_sentences(scale_curves(some, "shots"))
    assert crossing.startswith("probe wins at shots 1 (") and ", lora at 64 (" in crossing
    assert always == "probe and worse: probe wins at shots 1, 2, 4, 16, 64; single runs, of which nothing is claimed, at shots 8."
    turned = [run for run in runs if run.results.method.name != "worse"]
    turned += [run_of("worse", x, seed, 0.2 + 0.6 * (x == 4) + 0.001 * seed) for x in (1, 4, 64) for seed in range(4)]
    assert not any("at shots ." in sentence or "at shots." in sentence for sentence in pair_sentences(scale_curves(turned, "shots")))


def test_only_what_both_have_is_compared(runs):
    some = [run for run in runs if run.results.method.name != "lora" or run.results.protocol.shots <= 8]
    scaling = scale_curves(some, "shots")
    assert [d.x for d in scaling.pairs[0].differences] == [1, 2, 4, 8]
    assert any("were not measured at the same shots" in sentence for sentence in remarks(scaling))
    assert "the smallest common value" in ranking_sentence(scaling)


def test_a_setting_and_the_sessions_of_a_run(tmp_path):
    made = [
        read_run(write_run(tmp_path / f"{epochs}-{seed}", seed=seed, final=0.3 + 0.02 * epochs, settings={"epochs": epochs}))
        for epochs in (1, 2, 4, 8)
        for seed in range(2)
    ]
    scaling = scale_curves(made, "epochs")
    assert scaling.curves[0].label == "ovor" and scaling.curves[0].x == (1, 2, 4, 8)
    over = scale_curves([run for run in made if run.settings["epochs"] == 1], "sessions")
    assert over.metric == "session_accuracy" and over.curves[0].x == (1, 2, 3)
    assert over.curves[0].means == pytest.approx([1 - value for value in made[0].results.metrics["session_accuracy"]])
    forgetting = scale_curves(made, "epochs", "forgetting")
    assert not forgetting.is_error and forgetting.curves[0].means[0] == pytest.approx(made[0].results.metrics["forgetting"])


@pytest.mark.parametrize(
    ("key", "metric", "said"),
    [
        ("shot", None, "'shot' is no key of protocol or settings. Did you mean 'shots'?"),
        ("batch_sizes", None, "is no key of protocol or settings"),
        ("dataset", None, "probe was measured at 0 numeric values of dataset; a curve needs 3."),
        ("shots", "backward_transfer", "a loss that has a power law is not negative"),
        ("shots", "nothing", "probe has runs without the number 'nothing'."),
    ],
)
def test_mistakes_are_sentences(runs, key, metric, said):
    with pytest.raises(ValueError) as error:
        scale_curves([run for run in runs if key == "shots" or run.settings["shots"] == 1], key, metric)
    assert said in str(error.value)


def test_too_few_values_and_zero(runs, tmp_path):
    few = [run for run in runs if run.results.protocol.shots in (1, 64)]
    with pytest.raises(ValueError) as error:
        scale_curves(few, "shots")
    assert str(error.value).splitlines() == [
        f"{label} was measured at 2 numeric values of shots; a curve needs 3." for label in ("probe", "lora", "worse")
    ]
    settings = [{"weight_decay": decay} for decay in (0, 1, 10)]
    zero = [read_run(write_run(tmp_path / str(i), settings=one)) for i, one in enumerate(settings)]
    with pytest.raises(ValueError, match="ovor has weight_decay = 0; a power law needs positive values"):
        scale_curves(zero, "weight_decay")


def test_no_error_counts_as_half_an_image():
    made = [run_of("ovor", shots, seed, error) for shots, error in ((1, 0.5), (2, 0.25), (4, 0.0)) for seed in range(2)]
    scaling: Scaling = scale_curves(made, "shots")
    assert scaling.floored == 2 and scaling.curves[0].means[-1] == pytest.approx(0.5 / sum(made[0].results.test_counts))
    assert all(a > b for a, b in pairwise(scaling.curves[0].means))
    assert any("Fitted without an asymptote" in sentence for sentence in remarks(scaling))
