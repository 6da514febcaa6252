"""The loop on tiny models and images in memory."""

from __future__ import annotations

import json

import pytest
import torch
from loop_case import backbone, build, digest, processor
from safetensors.torch import load_file
from stream import Stream

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import LossTerm, Method, Phase, everything
from hf_cl.methods import lora, nearest_class_mean, ovor
from hf_cl.results.results import Results
from hf_cl.training.step import TrainingDivergedError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trainer = build(folder)
    return trainer, trainer.fit(), folder


def test_the_run_folder(run):
    trainer, results, folder = run
    names = {path.name for path in folder.iterdir()}
    assert {"adapters", "checkpoints", "config.yaml", "log.jsonl", "results.json"} <= names
    assert sorted(p.name for p in (folder / "adapters").iterdir()) == ["session-0", "session-1", "session-2"]
    for session in range(3):
        config = json.loads((folder / "adapters" / f"session-{session}" / "adapter_config.json").read_text())
        assert config["class_names"] == list(trainer.scenario.names[: 2 * session + 2])
        assert config["classes_per_session"] == [2] * (session + 1)
        assert (folder / "adapters" / f"session-{session}" / "preprocessor_config.json").exists()
    saved = Results.load(folder / "results.json")
    assert saved.metrics == results.metrics
    assert saved.method is not None and (saved.method.name, saved.method.title) == ("ovor", "OVOR")
    assert saved.memory is not None and len(saved.memory.peak_bytes) == 3 and min(saved.memory.peak_bytes) > 0
    assert sum(map(sum, saved.session_confusion or [])) == sum(saved.test_counts)
    assert len(results.accuracy_matrix) == 3 and all(s.trained for s in results.sessions)


def test_every_line_of_the_log_is_json_with_losses(run):
    lines = [json.loads(line) for line in (run[2] / "log.jsonl").read_text().splitlines()]
    losses = [line for line in lines if line["kind"] == "train"]
    assert {line["phase"] for line in losses} == {"train", "vor"}
    assert all("loss_cross_entropy" in line and "learning_rate_0" in line for line in losses)
    assert any("loss_virtual_outliers" in line for line in losses)


def test_rows_of_earlier_classes_keep_their_values_to_the_bit(run):
    files = [load_file(run[2] / "adapters" / f"session-{s}" / "adapter_model.safetensors") for s in range(3)]
    key = "base_model.model.classifier.weight"
    assert torch.equal(files[2][key][:2], files[0][key]) and torch.equal(files[2][key][:4], files[1][key])
    prompt = "base_model.model.vit.layers.0.attention.one_prompt_k"
    assert not torch.equal(files[1][prompt], files[0][prompt])


def test_the_backbone_is_untouched(run):
    trained = {name.replace(".base_layer", ""): tensor for name, tensor in run[0].backbone.state_dict().items()}
    fresh = backbone().state_dict()
    assert fresh and all(torch.equal(trained[name], tensor) for name, tensor in fresh.items())


def test_the_same_settings_give_the_same_bits(run, tmp_path):
    build(tmp_path).fit()
    assert digest(tmp_path) == digest(run[2])


def test_accumulation_changes_the_cut_and_not_the_gradient(tmp_path):
    whole, halves = build(tmp_path / "a", dropout=0.0), build(tmp_path / "b", dropout=0.0, gradient_accumulation_steps=2)
    for trainer in (whole, halves):
        trainer.method = ovor(epochs=2, vor_epochs=0, learning_rate=1e-3)
        trainer.fit()
    a, b = (load_file(tmp_path / x / "adapters/session-2/adapter_model.safetensors") for x in "ab")
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("precision", ["bf16"])
def test_mixed_precision_stays_on_in_every_session(tmp_path, precision):
    trainer, seen = build(tmp_path, mixed_precision=precision), []

    class Spy(LossTerm):
        name = "spy"

        def __call__(self, ctx):
            return ctx.logits.float().logsumexp(1).mean()

    def phases(session):
        return [Phase("train", 1, [Spy()], everything)]

    trainer.method = Method(**{**trainer.method.__dict__, "phases": phases})
    hook = trainer.backbone.vit.layers[0].mlp.fc1.register_forward_hook(lambda m, a, out: seen.append((m.training, out.dtype)))
    trainer.fit()
    hook.remove()
    training = [dtype for is_training, dtype in seen if is_training]
    assert training and set(training) == {torch.bfloat16}
    assert all(t.dtype == torch.float32 for t in load_file(tmp_path / "adapters/session-2/adapter_model.safetensors").values())


def test_gradient_checkpointing_gives_the_same_losses(run, tmp_path):
    build(tmp_path, gradient_checkpointing=True).fit()
    a, b = ([json.loads(x) for x in (folder / "log.jsonl").read_text().splitlines()] for folder in (run[2], tmp_path))
    for x, y in zip(a, b, strict=True):
        if x["kind"] == "train":
            assert y["loss_cross_entropy"] == pytest.approx(x["loss_cross_entropy"], abs=1e-4)


def test_nothing_trains_where_the_method_has_no_phase(tmp_path):
    settings = TrainingSettings(output_dir=str(tmp_path), cpu=True)
    results = ContinualTrainer(backbone(), processor(), nearest_class_mean(), Stream(2), settings).fit()
    assert [s.trained for s in results.sessions] == [False, False]


def test_lora_without_protection_runs_through_the_same_loop(tmp_path):
    settings = TrainingSettings(output_dir=str(tmp_path), cpu=True, batch_size=8)
    results = ContinualTrainer(backbone(), processor(), lora(epochs=1, r=2), Stream(2), settings).fit()
    assert len(results.accuracy_matrix) == 2


class Poison(LossTerm):
    """Becomes NaN at one step."""

    name = "poison"

    def __init__(self, at):
        self.at = at

    def __call__(self, ctx):
        return ctx.logits.mean() * (float("nan") if ctx.step == self.at else 1.0)


def test_a_nan_stops_the_run_and_names_step_and_samples(tmp_path):
    trainer = build(tmp_path, logging_steps=4)
    poison = Poison(at=7)
    trainer.method = Method(**{**trainer.method.__dict__, "phases": lambda session: [Phase("train", 2, [poison], everything)]})
    with pytest.raises(TrainingDivergedError, match=r"step 7 \(session 1, phase train\).*last good checkpoint: .*step-000000006") as error:
        trainer.fit()
    batch = trainer.images._plan[1]
    assert f"with index {', '.join(str(1000 + position) for position in batch)}. " in str(error.value)
    assert "The loss 'poison' was not finite" in str(error.value)
    assert all(torch.isfinite(p).all() for _, p in trainer.named_parameters)
    assert not (tmp_path / "adapters" / "session-1").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"needs": frozenset({"tokens"})}, "needs .'tokens'., which this loop does not provide"),
        ({"needs": frozenset({"previous"})}, "session 0 has none"),
    ],
)
def test_what_a_loss_needs_is_checked_before_training(tmp_path, change, message):
    trainer, term = build(tmp_path), Poison(at=-1)
    for name, value in change.items():
        setattr(term, name, value)
    trainer.method = Method(**{**trainer.method.__dict__, "phases": lambda session: [Phase("train", 1, [term], everything)]})
    with pytest.raises(ValueError, match=message):
        trainer.fit()
    assert not (tmp_path / "adapters").exists()


def test_a_batch_size_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(ValueError, match="batch_size 8 is global; it must be a multiple of 1 processes x 3"):
        build(tmp_path, gradient_accumulation_steps=3).fit()


class Distill(LossTerm):
    """Reads the previous model."""

    name = "distill"
    needs = frozenset({"previous"})

    def __init__(self):
        self.seen = []

    def __call__(self, ctx):
        old = ctx.frozen("previous")
        assert ctx.frozen("previous") is old, "computed twice"
        base = ctx.frozen("pretrained")
        assert not old.logits.requires_grad and not base.features.requires_grad
        assert old.logits.shape[1] == len(ctx.session.class_names) - 2
        assert ctx.logits.requires_grad
        self.seen.append(float((old.features - ctx.features.detach()).abs().max()))
        return (ctx.logits[:, : old.logits.shape[1]] - old.logits).square().mean()


def test_the_previous_model_stands_still_while_the_present_one_moves(tmp_path):
    trainer, distill = build(tmp_path, dropout=0.0), Distill()
    plain = trainer.method.phases

    def phases(session):
        first = plain(session)[1]
        losses = [*first.losses, distill] if session.id else first.losses
        return [Phase("train", 2, losses, everything)]

    # the snapshot of session 0 is taken because a later session's loss needs it
    trainer.method = Method(**{**trainer.method.__dict__, "phases": phases})
    trainer.fit()
    assert distill.seen[0] < 1e-5 < distill.seen[-1]
