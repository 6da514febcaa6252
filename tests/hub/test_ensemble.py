"""Several adapters on one backbone: the average is that of the reference, the members are what they are alone, misfits are told at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from example_run import make_run
from peft import get_peft_model
from PIL import Image
from transformers import ViTImageProcessor

import hf_cl
from hf_cl.adapters.bases import SUPPORT, YES
from hf_cl.hub.ensemble import Average, average_of, disagreement
from hf_cl.hub.load import load

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "ensemble" / "ensemble.npz")
ON_VIT = [kind for kind in tiny.ADAPTERS if SUPPORT[kind].get("vit") == YES]


def reference(name):
    return torch.from_numpy(REFERENCE[name])


def nll(log_probabilities, labels):
    return F.nll_loss(log_probabilities, labels).item()


AVERAGES: tuple[tuple[Average, torch.Tensor], ...] = (
    ("probability", reference("mean_probability").log()),
    ("log", reference("geometric")),
)


def test_averages_are_those_of_the_reference():
    members, labels = reference("logits").log_softmax(-1), reference("labels")  # [3, 7, 5], [7]
    for average, expected in AVERAGES:
        mean = average_of(members, average)
        torch.testing.assert_close(mean, expected, atol=1e-12, rtol=0)
        torch.testing.assert_close(average_of(members[[2, 0, 1]], average), mean, atol=1e-12, rtol=0)
    assert nll(average_of(members), labels) == pytest.approx(float(REFERENCE["nll_probability"]), abs=1e-12)
    assert nll(average_of(members, "log"), labels) == pytest.approx(float(REFERENCE["nll_geometric"]), abs=1e-12)
    # what it is told apart from: the softmax of the members' mean logits is the geometric mean, and far from the mean of probabilities
    assert (average_of(members).exp() - reference("logits").mean(0).softmax(-1)).abs().max() > 0.04


def test_disagreement_is_that_of_the_reference_and_has_its_ends():
    members = reference("logits").log_softmax(-1)
    assert disagreement(members).mean().item() == pytest.approx(float(REFERENCE["disagreement"]), abs=1e-12)
    torch.testing.assert_close(disagreement(members[:1].expand(3, -1, -1)), torch.zeros(7, dtype=torch.float64), atol=1e-15, rtol=0)
    sure = torch.full((3, 1, 3), 1e-30).diagonal_scatter(torch.ones(1, 3), dim1=0, dim2=2).log()  # each rules out what the others say
    torch.testing.assert_close(disagreement(sure), torch.tensor([3.0]).log())


@pytest.mark.parametrize("average", ["probability", "log"])
def test_an_average_is_never_worse_than_its_members_on_average(average):
    generator = torch.Generator().manual_seed(0)
    for case in range(1000):
        members, images, classes = (int(torch.randint(2, 7, (1,), generator=generator)) for _ in range(3))
        logits = (0.1 + case % 20) * torch.randn(members, images, classes, generator=generator, dtype=torch.float64)
        labels = torch.randint(classes, (images,), generator=generator)
        each = logits.log_softmax(-1)
        mean = average_of(each, average)
        assert nll(mean, labels) <= sum(nll(one, labels) for one in each) / members + 1e-12
        torch.testing.assert_close(mean.exp().sum(-1), torch.ones(images, dtype=torch.float64))


def test_of_one_member_the_average_is_the_member_to_the_bit():
    each = (30 * torch.randn(1, 50, 9, generator=torch.Generator().manual_seed(0))).log_softmax(-1)
    assert torch.equal(average_of(each), each[0])


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, base_folder):
    """An adapter of each type for the same classes on the tiny ViT."""
    folder, found = tmp_path_factory.mktemp("members"), {}
    for kind in ON_VIT:
        model = get_peft_model(tiny.base("vit"), tiny.ADAPTERS[kind](class_names=list(tiny.NAMES[:4]), head={"type": "linear"}))
        generator = torch.Generator().manual_seed(len(found))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        model.peft_config["default"].base_model_name_or_path = str(base_folder)
        found[kind] = folder / kind
        model.save_pretrained(found[kind], save_embedding_layers=False)
        ViTImageProcessor(size={"height": tiny.SIDE, "width": tiny.SIDE}).save_pretrained(found[kind])
    return found


@pytest.fixture
def pictures():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (40, 30 + i, 3), dtype=np.uint8)) for i in range(5)]


def test_every_type_on_one_backbone(adapters, base_folder, pictures):
    """Members of different types are to the bit what they are alone; no weight of the backbone is in memory twice, and none is changed."""
    together = hf_cl.load([*adapters.values()])
    alone = [load(folder) for folder in adapters.values()]
    for member, one in zip(together.members, alone, strict=True):
        assert torch.equal(member.logits(pictures), one.logits(pictures))
    mean = torch.stack([one.logits(pictures).softmax(-1) for one in alone]).mean(0)
    torch.testing.assert_close(together.logits(pictures).exp(), mean, atol=1e-6, rtol=0)
    plain = dict(tiny.base("vit").named_parameters())
    weights = [
        {p.data_ptr() for p in member.model.parameters() if p.shape == (64, 32) and any(torch.equal(p, w) for w in plain.values())}
        for member in together.members
    ]
    assert len(weights[0]) == 6 and all(found == weights[0] for found in weights)  # `intermediate` of six layers
    found = together(pictures, top_k=4)
    assert [row[0].name for row in found] == [together.class_names[i] for i in mean.argmax(-1).tolist()]
    assert sum(prediction.score for prediction in found[0]) == pytest.approx(1, abs=1e-5)


def test_the_other_average(adapters, pictures):
    two = [*adapters.values()][:2]
    members = torch.stack([load(folder).logits(pictures).log_softmax(-1) for folder in two])
    logits = load(two, average="log").logits(pictures)
    torch.testing.assert_close(logits, members.mean(0).log_softmax(-1), atol=1e-5, rtol=0)


def test_all_that_does_not_go_together_is_said_at_once(adapters, tmp_path, base_folder):
    first, *_ = adapters.values()
    renamed = shutil.copytree(first, tmp_path / "renamed")
    config = json.loads((renamed / "adapter_config.json").read_text())
    names = config["class_names"]
    (renamed / "adapter_config.json").write_text(json.dumps(config | {"class_names": [*names[:2], "a bird", *names[3:]]}))
    moved = shutil.copytree(first, tmp_path / "moved")
    turned = {"class_names": [names[1], names[0], *names[2:]], "base_model_name_or_path": "me/other"}
    (moved / "adapter_config.json").write_text(json.dumps(config | turned))
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(moved)
    with pytest.raises(ValueError) as error:
        load([first, renamed, moved, first])
    for sentence in (
        f"{first} is named twice; a member counts once.",
        f"{renamed} does not go with {first}: it has other classes: {names[2]!r} is missing, 'a bird' is there instead.",
        f"{moved} does not go with {first}: its classes stand in another order; class 0 is {names[1]!r}, not {names[0]!r}.",
        f"{moved} does not go with {first}: its backbone is me/other, not {base_folder}.",
        f"{moved} does not go with {first}: its image processor makes other pixels",
    ):
        assert sentence in str(error.value)
    with pytest.raises(ValueError) as error:
        load([first], average="median")  # pyright: ignore[reportCallIssue, reportArgumentType]
    said = "average is one of probability, log, got 'median'.", "An ensemble takes two adapters or more, got 1."
    assert str(error.value).splitlines() == [*said]


def test_a_session_of_several_runs(tmp_path, base_folder, pictures):
    runs = [make_run(tmp_path / f"run-{seed}", base_name=str(base_folder), sessions=2, seed=10 * seed) for seed in range(2)]
    first = load(runs, revision="session-0")
    assert first.class_names == load(runs[0], revision="session-0").class_names and len(load(runs).class_names) > len(first.class_names)
    with pytest.raises(ValueError, match="has no revision 'session-7'"):
        load(runs, revision="session-7")
