"""The Gaussian head as a module: fits, what it saves, growth inside a session, settings."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from fitted_heads import FakeTrainer, run, session_of, split_by_class
from gaussian_reference import close, reference, rows_of, value
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny import ADAPTERS, base, images

from hf_cl.heads import GaussianHead, build_head
from hf_cl.heads.gaussian_fit import Gaussians
from hf_cl.memory import ClassStatistics

SETTINGS = {
    "shared": {"covariance": "shared"},
    "mixed": {"covariance": "mixed"},
    "low_rank": {"covariance": "low_rank", "rank": 3},
    "prior": {"prior": True},
    "rff": {"feature_map": "rff", "map_dim": 20},
    "relu": {"feature_map": "relu", "map_dim": 20, "prior": True},
    "normalize": {"normalize": True},
}
every_form = pytest.mark.parametrize("form", SETTINGS)
BY_NUMBER = {"shrinkage": value("shrinkage"), "temperature": 1.0}


def sample(classes=6, width=12, images=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(images)
    mix = torch.randn(width, width, generator=generator)
    return 3 * torch.randn(classes, width, generator=generator)[labels] + torch.randn(len(labels), width, generator=generator) @ mix, labels


def fitted(form, sizes=(4, 2), **settings) -> GaussianHead:
    torch.manual_seed(1)
    head = GaussianHead(12, 0, **SETTINGS[form], **settings)
    run(head, split_by_class(*sample(sum(sizes)), sizes))
    return head.eval()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"covariance": "shared"}, "shared_scores"),
        ({"covariance": "mixed", "own_share": value("own_share")}, "mixed_scores"),
        ({"covariance": "low_rank", "own_share": value("own_share"), "rank": value("rank")}, "low_rank_scores"),
        ({"prior": True}, "prior_scores"),
    ],
)
def test_the_saved_head_gives_the_numbers_of_the_reference(settings, name):
    head = GaussianHead(12, 0, **settings, **BY_NUMBER)
    head.grow([str(c) for c in range(9)])
    of = Gaussians.of(whole_statistics(), 9, own=True)
    setting = head.candidates.grid[0]
    head._fit(of, setting, 1.0, of.means)
    loaded = GaussianHead(12, 9, **settings, **BY_NUMBER)
    loaded.load_state_dict(head.state_dict())
    close(loaded.eval()(reference("query").float()).double(), f"{name}_after_2", 1e-4)


def whole_statistics() -> ClassStatistics:
    statistics = ClassStatistics({"pooled", "full"})
    for session in range(3):
        statistics.count_session(session, *rows_of(session))
    return statistics


@every_form
def test_sessions_add_up_to_all_images_at_once(form):
    features, labels = sample()
    at_once, piecewise = (GaussianHead(12, 0, **SETTINGS[form], **BY_NUMBER, dtype=torch.float64) for _ in range(2))
    run(at_once, [(features, labels)])
    run(piecewise, split_by_class(features, labels, (3, 2, 1)))
    if form in ("rff", "relu", "normalize"):  # centre and scale are those of session 0
        at_once, other = (GaussianHead(12, 0, **SETTINGS[form], **BY_NUMBER, dtype=torch.float64) for _ in range(2))
        half = labels < 3
        run(at_once, [(features[half], labels[half]), (features[~half], labels[~half])])
        run(other, split_by_class(features, labels, (3, 1, 1, 1)))
        torch.testing.assert_close(other.eval()(features.double()), at_once.eval()(features.double()), rtol=1e-8, atol=1e-8)
        return
    torch.testing.assert_close(piecewise.eval()(features.double()), at_once.eval()(features.double()), rtol=1e-8, atol=1e-7)


@every_form
def test_a_class_that_comes_again_is_merged(form):
    features, labels = sample()
    half = torch.arange(len(labels)) % 2 == 0
    first, again = features[half], features[~half]
    whole, twice = (GaussianHead(12, 0, **SETTINGS[form], **BY_NUMBER, dtype=torch.float64) for _ in range(2))
    run(twice, [(first, labels[half]), (again, labels[~half])])
    trainer = FakeTrainer(whole)
    whole.grow([str(c) for c in range(6)])
    if whole.feature_map is not None:
        run_map_from(whole, first)
    whole.end_session(trainer, session_of(1, [str(c) for c in range(6)], 6, features, labels))
    torch.testing.assert_close(twice.eval()(features.double()), whole.eval()(features.double()), rtol=1e-8, atol=1e-7)


def run_map_from(head, features):
    head.feature_map.begin(features)


@every_form
def test_train_mode_is_a_cosine_head_whose_rows_begin_at_the_means(form):
    features, labels = sample(4)
    head = GaussianHead(12, 0, **SETTINGS[form])
    untouched = head.state_dict()
    head.grow(["a", "b", "c", "d"])
    head.begin_session(FakeTrainer(head), session_of(0, "abcd", 4, features, labels))
    torch.testing.assert_close(head.weight.detach(), torch.stack([features[labels == c].mean(0) for c in range(4)]))
    cosine = head.scale * torch.nn.functional.cosine_similarity(features[:, None], head.weight[None], dim=-1)
    torch.testing.assert_close(head.train()(features), cosine)
    torch.testing.assert_close(head.eval()(features), cosine)  # before the first fit too
    assert head.state_dict().keys() == untouched.keys()
    head.train()(features).sum().backward()
    assert head.weight.grad is not None


@every_form
def test_what_is_saved_is_the_fit_and_no_row(form):
    head = fitted(form)
    with torch.no_grad():
        head.weight.fill_(7.0)
    state = head.state_dict()
    names = {name.rpartition(".")[2] for name in state}
    assert {"means", "scale", "temperature"} <= names and "weight" not in {n for n in state if "." not in n}
    assert not names & {"hits", "curves", "map_scatter", "map_means", "shared_whitener"}
    assert not any((tensor == 7.0).any() for tensor in state.values())
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in state.values())
    other = GaussianHead(12, 6, **SETTINGS[form])
    assert {name: t.shape for name, t in other.state_dict().items()} == {name: t.shape for name, t in state.items()}


@every_form
@pytest.mark.parametrize("assign", [True, False])
def test_a_loaded_head_gives_the_same_logits_and_its_rows_begin_as_its_means(form, assign):
    head = fitted(form)
    features = sample(6, seed=3)[0]
    loaded = GaussianHead(12, 6, **SETTINGS[form], device="meta" if assign else None)
    loaded.load_state_dict(head.state_dict(), assign=assign)
    assert torch.equal(loaded.eval()(features), head(features))
    assert torch.equal(loaded.weight, loaded.means)
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])
    assert torch.equal(copy.deepcopy(loaded)(features), head(features))


@every_form
def test_inside_a_session_old_classes_keep_their_scores_and_new_ones_stand_at_their_rows(form):
    features, labels = sample(6)
    head = GaussianHead(12, 0, **SETTINGS[form], **BY_NUMBER, dtype=torch.float64)
    trainer = run(head, split_by_class(features[labels < 4], labels[labels < 4], (4,)))
    before = head.eval()(features.double())
    head.train()
    head.grow(["4", "5"])
    new = labels >= 4
    head.begin_session(trainer, session_of(1, "012345", 2, features[new], labels[new]))
    inside = head.eval()(features.double())
    torch.testing.assert_close(inside[:, :4], before, rtol=1e-9, atol=1e-9)
    assert inside.isfinite().all()
    right = (inside[new].argmax(1) == labels[new]).double().mean()
    assert right > 0.5  # at their class means, as if they had been fitted with the shared covariance
    if form == "shared":  # the same as a fit with the mean moved there
        expected = whole_lda(head, features, labels)
        difference = inside[:, 4:] - expected[:, 4:]
        torch.testing.assert_close(difference, difference[:1].expand_as(difference), rtol=0, atol=1e-6)


def whole_lda(head, features, labels):
    """Linear discriminant analysis with the covariance of the first four classes and all means."""
    centred = torch.cat([features[labels == c].double() - features[labels == c].double().mean(0) for c in range(4)])
    pooled = centred.T @ centred / (len(centred) - 4)
    a = value("shrinkage")
    inverse = torch.linalg.inv((1 - a) * pooled + a * pooled.trace() / 12 * torch.eye(12, dtype=torch.float64))
    means = torch.stack([features[labels == c].double().mean(0) for c in range(6)])
    x = features.double() - means[:4].mean(0)
    means = means - means[:4].mean(0)
    return x @ inverse @ means.T - 0.5 * (means @ inverse * means).sum(1)


@every_form
def test_every_loading_route_reproduces_the_logits(form, tmp_path):
    config = ADAPTERS["ONE_PROMPT"](class_names=["a"], head={"type": "gaussian", **SETTINGS[form]})
    model = get_peft_model(base("vit"), config).eval()
    head = model.base_model.head_wrapper().head("default")
    features, labels = sample(4, width=32)
    head.grow(["b", "c", "d"])
    model.peft_config["default"].class_names.extend(["b", "c", "d"])
    head.end_session(FakeTrainer(head), session_of(0, "abcd", 4, features, labels))
    model.save_pretrained(str(tmp_path))
    expected = model(images()).logits
    assert not any("hits" in key for key in load_file(tmp_path / "adapter_model.safetensors"))
    for low_cpu_mem_usage in (False, True):
        loaded = PeftModel.from_pretrained(base("vit"), str(tmp_path), low_cpu_mem_usage=low_cpu_mem_usage).eval()
        assert torch.equal(loaded(images()).logits, expected)
        assert not any(t.is_meta for t in [*loaded.parameters(), *loaded.buffers()])
    plain = base("vit")
    plain.load_adapter(str(tmp_path))
    assert torch.equal(plain.eval()(pixel_values=images()).logits, expected)


@pytest.mark.parametrize(("form", "linear"), [("shared", True), ("mixed", False), ("low_rank", False), ("prior", True), ("rff", False)])
def test_what_is_linear_folds_into_a_layer(form, linear):
    head = fitted(form)
    features = sample(6, seed=4)[0]
    layer = head.as_linear()
    assert (layer is not None) == linear
    if layer is not None:
        torch.testing.assert_close(layer(features).log_softmax(1), head(features).log_softmax(1), rtol=1e-4, atol=1e-4)


def test_without_own_share_mixed_is_linear_and_unequal_counts_make_a_prior_quadratic():
    head = fitted("mixed", own_share=0.0)
    features = sample(6, seed=4)[0]
    torch.testing.assert_close(head.as_linear()(features).log_softmax(1), head(features).log_softmax(1), rtol=1e-4, atol=1e-4)
    prior = GaussianHead(12, 0, prior=True)
    features, labels = sample(6)
    run(prior, [(features[:-3], labels[:-3])])
    assert prior.eval().as_linear() is None
    assert GaussianHead(12, 3, covariance="shared").eval().as_linear() is None  # nothing is fitted


def test_the_width_decides_what_auto_is():
    def of(width, **settings):
        return GaussianHead(width, 0, **settings).candidates.form.covariance

    assert [of(384), of(385), of(64, prior=True), of(64, feature_map="rff")] == ["mixed", "low_rank", "shared", "shared"]
    assert GaussianHead(8, 0).statistics == {"pooled", "full"}
    assert GaussianHead(8, 0, covariance="shared").statistics == {"pooled"}
    assert GaussianHead(8, 0, feature_map="relu").statistics == frozenset()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"covariance": "mixd"}, r"covariance: input should be 'auto', 'shared', 'mixed' or 'low_rank', got 'mixd'"),
        ({"feature_map": "rbf"}, "feature_map: input should be 'none', 'rff' or 'relu'"),
        ({"shrinkage": 1.5}, "shrinkage is auto, rule or a number from 0 to 1, got 1.5"),
        ({"own_share": 1.0}, "own_share is auto, rule or a number from 0 to below 1"),
        ({"covariance": "shared", "own_share": 0.1}, "leave own_share out"),
        ({"covariance": "mixed", "prior": True}, "goes with the shared covariance, not with 'mixed'"),
        ({"covariance": "mixed", "feature_map": "rff"}, "goes with the shared covariance"),
        ({"covariance": "low_rank", "rank": 8}, "rank is a whole number from 1 to 7"),
        ({"temperature": 0.0}, "temperature is auto or a positive number"),
        ({"map_dim": 0}, "map_dim is a whole number"),
        ({"gamma": -1.0}, "gamma is a positive number"),
        ({"prior": "yes"}, "prior must be true or false"),
    ],
)
def test_a_wrong_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_head({"type": "gaussian", **settings}, 8, 2)


def test_a_class_without_images_is_named():
    features, labels = sample(3)
    head = GaussianHead(12, 4)
    with pytest.raises(ValueError, match="Session 0 has no image of d"):
        head.end_session(FakeTrainer(head), session_of(0, "abcd", 4, features, labels))


def test_what_was_chosen_is_logged(caplog):
    with caplog.at_level(logging.INFO, "hf_cl.heads.gaussian"):
        fitted("mixed")
    assert "shrinkage" in caplog.text and "temperature" in caplog.text
