"""Methods put together by names: what is made, what is refused, and that it trains."""

from __future__ import annotations

import json

import pytest
from speed_runs import build

from hf_cl.contracts import LossTerm
from hf_cl.losses import LOSSES, MaskedCrossEntropy, ZeroShotKL
from hf_cl.methods import METHODS, compose, frozen, lora, nearest_class_mean
from hf_cl.methods.compose import ComposeSettings
from hf_cl.parts import Prototypes
from hf_cl.results.composition import composition
from hf_cl.rules import Plain, Sam
from hf_cl.run import open_scenario
from hf_cl.run.runs import train
from hf_cl.settings import RunSettings


class Session:
    """What `phases` asks of a session."""

    def __init__(self, number):
        self.id = number


def losses_of(method, session):
    (phase,) = method.phases(Session(session))
    return {term.name: term for term in phase.losses}


class LooksAhead(LossTerm):
    """A penalty that looks at session 0 and begins with session 1."""

    name = "looks_ahead"
    needs = frozenset({"previous"})

    def __init__(self, weight: float = 1.0):
        self.weight, self.heard = weight, []

    def end_session(self, trainer, session):
        self.heard.append(session.id)

    def __call__(self, ctx):
        return (ctx.features - ctx.frozen("previous", view=0).features).square().mean()


@pytest.fixture
def looks_ahead(monkeypatch):
    monkeypatch.setitem(LOSSES, "looks_ahead", LooksAhead)


def test_names_become_parts():
    method = compose(
        adapter={"type": "one_prompt", "layer_tokens": {0: 2}},
        head={"type": "cosine", "scale": 4.0},
        losses={"zero_shot_kl": {"weight": 0.1}, "again": {"type": "zero_shot_kl", "temperature": 2.0, "first_session": 3}},
        rule={"type": "sam", "rho": 0.1},
        parts={"prototypes": {}},
    )
    assert method.adapter.peft_type.value == "ONE_PROMPT" and method.adapter.head == {"type": "cosine", "scale": 4.0}
    assert type(method.rule) is Sam and method.rule.rho == 0.1
    (part,) = method.parts
    assert isinstance(part, Prototypes)
    first, later = losses_of(method, 0), losses_of(method, 3)
    assert isinstance(first["cross_entropy"], MaskedCrossEntropy) and isinstance(first["zero_shot_kl"], ZeroShotKL)
    assert first.keys() == {"cross_entropy", "zero_shot_kl"} and later.keys() == {*first, "again"}
    assert later["again"].temperature == 2.0 and first["zero_shot_kl"].weight == 0.1


def test_a_loss_of_the_previous_model_begins_with_session_1_and_hears_of_session_0(looks_ahead):
    method = compose(losses={"looks_ahead": {}})
    assert losses_of(method, 0).keys() == {"cross_entropy"} and losses_of(method, 1).keys() == {"cross_entropy", "looks_ahead"}
    assert [*method.parts] == [losses_of(method, 1)["looks_ahead"]]
    assert compose(losses={"consistency": {"first_session": 1}}).parts == []  # it has no hook of sessions


def test_it_trains_and_is_recorded(looks_ahead, tmp_path):
    method = compose(losses={"looks_ahead": {"weight": 0.5}}, rule={"type": "sam"}, epochs=1)
    build("LoRA", tmp_path, method=method, logging_steps=1).fit()
    assert method.parts[0].heard == [0, 1]
    made = json.loads((tmp_path / "method.json").read_text())
    assert made["rule"]["type"] == "Sam" and made["adapter"]["rule"] == "sam"
    assert [*made["phases"]["from session 0"][0]["losses"]] == ["cross_entropy"]
    assert made["phases"]["from session 1"][0]["losses"]["looks_ahead"]["weight"] == 0.5
    assert "loss_looks_ahead" in (tmp_path / "log.jsonl").read_text()


def test_lora_by_name_is_the_lora_of_the_baseline():
    named = compose(adapter={"type": "lora", "r": 4})
    assert named.adapter.to_dict() == lora(r=4).adapter.to_dict() and type(named.rule) is Plain


def test_an_adapter_of_type_glad_trains_by_the_rule_it_records():
    rule = compose(adapter={"type": "GLAD", "rule": "sam", "rho": 0.2}).rule  # peft's spelling
    assert isinstance(rule, Sam) and rule.rho == 0.2
    recorded = compose(adapter={"type": "lora"}, rule={"type": "sagm", "alpha": 0.3}).adapter
    assert (recorded.rule, recorded.sagm_alpha) == ("sagm", 0.3)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ({"adapter": {"type": "lorra"}}, "Unknown adapter type 'lorra'.*Did you mean 'lora'"),
        ({"adapter": {"type": "lora", "rank": 3}}, "Adapter type 'lora' has no setting 'rank'"),
        ({"adapter": {"type": "one_prompt", "head": {}}}, "has no setting 'head'"),
        ({"head": {"type": "prototipe"}}, "Did you mean 'prototype'"),
        ({"main": {"type": "cross_entropi"}}, "Unknown loss type 'cross_entropi'.*Did you mean 'cross_entropy'"),
        ({"main": {"type": "cross_entropy", "first_session": 1}}, "main loss is there in every session"),
        ({"losses": {"zero_shot_k": {}}}, "Did you mean 'zero_shot_kl'"),
        ({"losses": {"zero_shot_kl": {"first_session": -1}}}, "must be a session's number"),
        ({"rule": {"type": "gradient_norm"}}, "needs rho"),
        ({"parts": {"prototype": {}}}, "Did you mean 'prototypes'"),
        ({"optimizer": {"type": "adamm"}}, "Did you mean 'adam"),
        ({"optimizer": {"type": "sgd", "lr": 1}}, "has no setting 'lr'"),
    ],
)
def test_what_is_mistyped_is_refused_with_the_nearest_name(specs, message):
    with pytest.raises(ValueError, match=message):
        compose(**specs)


def test_all_mistakes_are_said_at_once():
    with pytest.raises(ValueError, match="lorra") as refused:
        compose(adapter={"type": "lorra"}, head={"type": "lineal"}, losses={"nuclear_nrm": {}}, rule={"type": "samm"})
    assert [line.split("'")[1] for line in str(refused.value).split("\n")] == ["lorra", "lineal", "nuclear_nrm", "samm"]


def test_a_loss_that_no_session_would_train_on_is_refused():
    resting = {"feature_distillation": {}, "zero_shot_kl": {"first_session": 2}, "nuclear_norm": {}}
    idle = r"feature_distillation, zero_shot_kl would begin .* fitted \(gaussian\). Say adapt_sessions: all."
    with pytest.raises(ValueError, match=idle):
        ComposeSettings(adapt_sessions="first", head={"type": "gaussian"}, losses=resting).method()
    for settings in ({"adapt_sessions": "all", "head": {"type": "gaussian"}}, {"adapt_sessions": "first", "head": {"type": "linear"}}):
        assert len(ComposeSettings(losses={"feature_distillation": {}}, **settings).method().phases(Session(0))[0].losses) == 1


def test_a_mistyped_part_is_refused_before_the_data_are_looked_for(tmp_path):
    nowhere = {"dataset": str(tmp_path / "no_such_data"), "output_dir": str(tmp_path / "run")}
    with pytest.raises(ValueError, match="Did you mean 'zero_shot_kl'"):
        train(ComposeSettings(losses={"zero_shot_k": {}}, **nowhere))
    with pytest.raises(ValueError, match=r"Unknown probe type 'stabilty'.*Did you mean 'stability'"):
        open_scenario(RunSettings(probes={"stabilty": {"every": 3}}, **nowhere))
    with pytest.raises(ValueError, match="give one of the two"):
        open_scenario(RunSettings(probes={"stability": {"every": 3}}, stability_every=3, **nowhere))


def test_the_frozen_backbone_with_a_prototype_head_is_the_nearest_class_mean():
    frozen_made, means = ({**composition(method, [[]]), "name": ""} for method in (frozen({"type": "prototype"}), nearest_class_mean()))
    assert frozen_made == means


@pytest.mark.parametrize(("head", "message"), [("linear", "those that do are .*prototype"), ("prototipe", "Did you mean")])
def test_a_head_that_has_to_be_trained_is_refused(head, message):
    with pytest.raises(ValueError, match=message):
        frozen({"type": head})


def test_a_frozen_backbone_names_classes(tmp_path):
    results = build("LoRA", tmp_path, method=frozen()).fit()
    assert results.metrics["final_accuracy"] > 0.25 and not results.sessions[0].trained  # four classes by chance


def test_probes_of_the_settings_are_asked(tmp_path):
    run = build("LoRA", tmp_path / "short", stability_every=2).fit()
    named = build("LoRA", tmp_path / "named", probes={"stability": {"every": 2}}).fit()
    assert run.continual is not None and named.continual == run.continual


def test_methods_and_losses_are_registered_under_their_own_names():
    assert {settings().method().name for settings in METHODS.values()} == METHODS.keys()
    told = {"self_distillation": {"epochs": 2}}
    ours = {name: make for name, make in LOSSES.items() if make.__module__.startswith("hf_cl.losses.")}  # a test may have added its own
    assert {make(**told.get(name, {})).name for name, make in ours.items()} == ours.keys() and len(ours) > 30
