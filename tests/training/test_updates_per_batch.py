"""Several steps on each batch of an online stream, an optimizer that lasts the run; stopped between two of them, and killed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from loop_case import digest
from memory_case import StopAt
from online_case import build, watched
from processes import run

from hf_cl.contracts import Part
from hf_cl.methods import LoraSettings, compose
from hf_cl.methods.with_memory import with_updates
from hf_cl.training.optimizer_state import carry_over, state_by_name


class Watch(Part):
    """Each step's images, pixels, update, count of images and rate; the optimizer's step count of the head."""

    def begin_session(self, trainer, session):
        self.seen = getattr(self, "seen", [])

    def after_step(self, trainer):
        (ctx,) = trainer.contexts
        pixels = ctx.batch["pixel_values"].sum().item()
        count = trainer.optimizer.state[trainer.head.weight]["step"].item()
        self.seen.append((ctx.batch["index"].tolist(), pixels, ctx.update, trainer.images_seen, trainer.exposed, ctx.exposed, count))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, watched(folder).fit()


def test_each_batch_comes_three_times_as_it_was_drawn(tmp_path):
    watch = Watch()
    build(tmp_path, with_updates(compose(adapter={"type": "lora", "r": 4}, epochs=1), 3, "run"), parts=[watch]).fit()
    steps = watch.seen
    assert len(steps) == 30 and [step[2] for step in steps] == [0, 1, 2] * 10
    for batch in range(10):
        first, *again = steps[3 * batch : 3 * batch + 3]
        assert all(step[:2] == first[:2] and step[3:6] == first[3:6] for step in again)
        assert first[3] == 4 * (batch % 5 + 1) and first[4] == first[5]
    assert len({step[1] for step in steps}) == 10
    assert [step[6] for step in steps] == list(range(1, 31))  # one optimizer, from the first step to the last


def test_probes_see_each_image_once(whole):
    _, results = whole
    assert results.probes["anytime_accuracy"]["images"] == [12, 20, 28, 36]


@pytest.mark.parametrize("step", [8, 15], ids=["between updates", "end of session 0"])
def test_stopped_it_goes_on_to_the_bit(whole, tmp_path, step):
    with pytest.raises(RuntimeError, match="stopped"):
        watched(tmp_path, StopAt(step)).fit()
    again = watched(tmp_path).fit()
    assert digest(tmp_path) == digest(whole[0])
    assert again.probes == whole[1].probes and again.accuracy_matrix == whole[1].accuracy_matrix


@pytest.mark.parametrize("step", [23])
def test_killed_in_the_middle_of_an_ordered_session_it_goes_on_to_the_bit(whole, tmp_path, step):
    done = run(Path(__file__).with_name("online_case.py"), tmp_path, step)
    assert done.statuses == [-signal.SIGKILL], done.output
    again = watched(tmp_path).fit()
    assert digest(tmp_path) == digest(whole[0])
    assert again.probes == whole[1].probes and again.sessions == whole[1].sessions


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.0),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.05, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_rows_that_grow_equal_a_head_that_had_all_from_the_start(make):
    g = torch.Generator().manual_seed(0)
    start, data = torch.randn(6, 5, generator=g, dtype=torch.float64), torch.randn(12, 5, generator=g, dtype=torch.float64)
    full, bias = torch.nn.Parameter(start.clone()), torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = make([bias, full])
    rows, scalar, carried = start[:0], bias.detach().clone(), {}
    for seen in (2, 4, 4, 6):  # the third session brings no row
        part, its_bias = torch.nn.Parameter(torch.cat([rows, start[len(rows) : seen]])), torch.nn.Parameter(scalar)
        mine, named = make([part, its_bias]), [("head.bias", its_bias), ("head.weight", part), ("losses.gone", torch.nn.Parameter(rows))]
        carry_over(carried, mine, named)
        for step in range(5):
            label = torch.tensor([(step + seen) % seen])
            for weight, scale, by in ((full, bias, optimizer), (part, its_bias, mine)):
                by.zero_grad()
                logits = (data[step : step + 1] @ weight[:seen].T) * (1 + scale)
                torch.nn.functional.cross_entropy(logits, label).backward()
                by.step()
        torch.testing.assert_close(part.detach(), full.detach()[:seen], rtol=0, atol=1e-14)
        rows, scalar, carried = part.detach(), its_bias.detach(), state_by_name(mine, named)
    assert "losses.gone" not in carried


def test_a_parameter_that_has_changed_otherwise_is_refused():
    before, now = (torch.nn.Parameter(torch.ones(*shape)) for shape in ((3, 4), (3, 5)))
    optimizer = torch.optim.Adam([before])
    before.sum().backward()
    optimizer.step()
    state = state_by_name(optimizer, [("head.weight", before)])
    with pytest.raises(ValueError, match=r"head\.weight has had the shape \[3, 4\] and has \[3, 5\] now"):
        carry_over(state, torch.optim.Adam([now]), [("head.weight", now)])


def test_settings():
    made = LoraSettings(output_dir="x", updates_per_batch=3, optimizer_lasts="run").method()
    assert made.optimizer_lasts == "run" and [phase.updates_per_batch for phase in made.phases(None)] == [3]
    with pytest.raises(ValueError, match="updates_per_batch must be at least 1, got 0"):
        LoraSettings(output_dir="x", updates_per_batch=0)
