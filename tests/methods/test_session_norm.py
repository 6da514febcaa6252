"""Norms by domain in a run: told in training, found at test, the same bits after a resume and in another process."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from device_runs import vit
from PIL import Image
from resumed import adapters, check_in_a_fresh_process, check_same_adapters, killed_and_resumed
from stream import Images
from transformers import ViTImageProcessor

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import Session, Test
from hf_cl.losses import FeatureDistillation
from hf_cl.methods import SessionNormSettings, session_norm
from hf_cl.parts import DomainRule

LOOKS = ("day", "night", "noise")


class InDomain(Images):
    """Pictures of two classes in one of three looks: as they are, dark, with more noise."""

    def __init__(self, domains: Any, first_index: int) -> None:
        super().__init__(np.arange(len(domains)) // 2 % 2, first_index)
        self.domains = np.asarray(domains)

    def __getitem__(self, position: int) -> dict[str, Any]:
        item, look = super().__getitem__(position), self.domains[position]
        pixels = np.asarray(item["image"], dtype=np.float64)
        if look == 2:
            pixels = pixels + np.random.default_rng(position).normal(0, 60, pixels.shape)
        changed = np.clip(pixels * (0.3 if look == 1 else 1.0), 0, 255).astype(np.uint8)
        return {**item, "image": Image.fromarray(changed)}


class Domains:
    """A session for each look, of two classes; all looks so far are tested."""

    class_names = ("red", "blue")

    def __init__(self, sessions: int = 3) -> None:
        self.count = sessions
        self.protocol = {
            **dict.fromkeys(("shots", "index_list", "classes_per_session")),
            "name": "domain_incremental",
            "dataset": "noise",
            "num_base_classes": 2,
            "class_order": "natural",
            "class_order_seed": 0,
            "test_split": "test",
            "validation_fraction": 0.0,
        }

    def __iter__(self) -> Any:
        tests = []
        for t in range(self.count):
            tested: Any = InDomain([t] * 8, 1000 * t + 500)
            trained: Any = InDomain([t] * 12, 1000 * t)
            tests.append(Test(f"session-{t}", tested, (0, 1), (0, 1)))
            yield Session(
                id=t,
                class_names=self.class_names,
                new_class_names=() if t else self.class_names,
                train=trained,
                tests=tuple(tests),
                domain_names=LOOKS[: t + 1],
            )


def trainer(folder: Path, place: Path, method: Any = None, stream: Any = None, **more: Any) -> ContinualTrainer:
    values = {"batch_size": 4, "eval_batch_size": 16, "augmentation": "none", "cpu": True, "num_workers": 1}
    probes = more.pop("probes", ())
    settings = TrainingSettings(output_dir=str(folder), **{**values, **more})
    torch.manual_seed(0)
    method = method or SessionNormSettings(conditioning="table", epochs=1, learning_rate=1e-2).method()
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    return ContinualTrainer(vit(place), processor, method, stream or Domains(), settings, quiet=True, probes=probes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("session_norm")
    made = trainer(folder / "run", folder)
    return folder, made, made.fit()


def test_a_session_trains_the_norms_of_its_domain_and_leaves_the_others(whole):
    folder, made, _ = whole
    saved = adapters(folder / "run")
    scales = [[tensor for name, tensor in state.items() if name.endswith("session_norm_scale")] for state in saved]
    for before, after in pairwise(scales):
        for old, new in zip(before, after, strict=True):
            assert len(new) == len(old) + 1 and torch.equal(new[:-1], old) and new[-1].any()
    assert made.tuner.peft_config["default"].domains == list(LOOKS)


def test_images_find_their_domain(whole):
    _, made, results = whole
    made.model.eval()
    right = 0
    for test in [*Domains()][-1].tests:
        pixels = made.processor([item["image"] for item in map(test.data.__getitem__, range(8))], return_tensors="pt")["pixel_values"]
        rule = made.tuner._host("default").session_norm_rule["default"]
        seen = made.tuner.looks("default", pixels)
        right += int(((seen @ rule[:, :-1].T + rule[:, -1]).argmax(1).numpy() == test.data.domains).sum())
    assert right >= 22  # of 24
    assert results.probes == {} or "DomainRule" not in results.probes


def test_killed_in_session_2_and_resumed_to_the_bit(whole, tmp_path):
    folder, _, results = whole
    resumed = killed_and_resumed(partial(trainer, tmp_path, folder), 2)
    assert resumed.results.results.accuracy_matrix == results.accuracy_matrix
    check_same_adapters(tmp_path, folder / "run")


def test_the_last_adapter_in_a_fresh_process(whole):
    folder, made, _ = whole
    check_in_a_fresh_process(folder, folder / "run", made.model)


def test_the_rule_of_several_sessions_is_that_of_all_images_at_once(whole):
    """Each session adds counts, sums and squares; a session with all domains gives the same."""
    _, made, _ = whole
    (rule,) = [part for part in made.method.parts if isinstance(part, DomainRule)]
    seen, own = [], []
    for session in Domains():
        for batch in made.batches_of(session.train):
            seen.append(made.tuner.looks("default", batch["pixel_values"]).double())
            own.append(batch["domain"])
    x, which = torch.cat(seen), torch.cat(own)
    means = torch.stack([x[which == k].mean(0) for k in range(3)])
    scatter = sum(((x[which == k] - means[k]).T @ (x[which == k] - means[k]) for k in range(3)), torch.zeros(()))
    torch.testing.assert_close(rule._sums / rule._counts[:, None], means)
    torch.testing.assert_close(rule._squares - means.T @ (rule._counts[:, None] * means), scatter, atol=1e-6, rtol=1e-6)
    ours, one = rule.rule(3), x.float() @ rule.rule(3)[:, :-1].T + rule.rule(3)[:, -1]
    assert ours.shape == (3, 65) and (one.argmax(1) == which).float().mean() > 0.9
    assert rule.rule(4)[3, -1] < -1e29  # a domain without images never wins


def test_two_views_previous_states_and_a_fitted_head_go_with_domains(tmp_path, caplog):
    method = session_norm(adapter=SessionNormSettings(conditioning="table", head={"type": "gaussian"}).method().adapter, epochs=1)
    distilled = FeatureDistillation(weight=1.0)

    def phases(session: Session) -> Any:
        (phase,) = method.phases(session)
        return [replace(phase, losses=[*phase.losses, *([distilled] if session.id else [])])]

    trainer(tmp_path / "run", tmp_path, replace(method, phases=phases)).fit()
    assert "stale" not in caplog.text  # the norms of earlier domains have rested


def test_a_stream_without_domains_is_refused_before_anything_trains(tmp_path):
    class Nameless(Domains):
        def __iter__(self) -> Any:
            return (replace(session, domain_names=()) for session in super().__iter__())

    with pytest.raises(ValueError, match="conditioning: table goes by the domain of an image, and the sessions say none"):
        trainer(tmp_path / "run", tmp_path, stream=Nameless())
    codes = SessionNormSettings(conditioning="interpolate", codes={"day": 0, "night": 1}).method()
    with pytest.raises(ValueError, match="codes has no number for 'noise'"):
        trainer(tmp_path / "run", tmp_path, codes)
