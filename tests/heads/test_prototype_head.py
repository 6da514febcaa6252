import copy
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny import ADAPTERS, base, images
from torch.nn import functional as F

from hf_cl.contracts import Session
from hf_cl.heads import ClassStatistics, PrototypeHead

NAMES = ("a", "b", "c", "d", "e")


def fit(head, sessions, seed=0):
    """Run `end_session` for the given (id, number of classes so far, number of new ones)."""
    generator = torch.Generator().manual_seed(seed)
    statistics = ClassStatistics()
    for session_id, seen, new in sessions:
        labels = torch.arange(seen - new, seen).repeat_interleave(4)
        statistics.update(torch.randn(len(labels), head.in_features, generator=generator), labels)
        session = Session(session_id, NAMES[:seen], NAMES[seen - new : seen], train=None, tests=())
        head.end_session(SimpleNamespace(class_statistics=lambda session: statistics), session)
    return statistics


def test_train_mode_is_a_cosine_head_and_eval_mode_before_the_first_fit_too():
    head = PrototypeHead(8, 3)
    features = torch.randn(4, 8)
    rows = head.scale * F.linear(F.normalize(features), F.normalize(head.weight))
    assert torch.equal(head(features), rows)
    assert torch.equal(head.eval()(features), rows)


def test_eval_mode_compares_with_class_means_after_the_fit():
    head = PrototypeHead(8, 3)
    statistics = fit(head, [(0, 3, 3)])
    features = torch.randn(4, 8)
    means = statistics.means(range(3)).float()
    expected = head.scale * F.cosine_similarity(features[:, None], means[None], dim=-1)
    torch.testing.assert_close(head.eval()(features), expected)
    rows = head.scale * F.cosine_similarity(features[:, None], head.weight[None], dim=-1)
    torch.testing.assert_close(head.train()(features), rows)


def test_a_fit_leaves_the_prototypes_of_earlier_classes_and_all_rows_alone():
    head = PrototypeHead(8, 3)
    fit(head, [(0, 3, 3)])
    rows, old = head.weight.detach().clone(), head.prototypes.clone()
    head.grow(NAMES[3:])
    head.eval()
    features = torch.randn(4, 8)
    new_rows = head.scale * F.linear(F.normalize(features), F.normalize(head.weight[3:]))
    torch.testing.assert_close(head(features)[:, 3:], new_rows)
    fit(head, [(0, 3, 3), (1, 5, 2)])
    assert torch.equal(head.prototypes[:3], old) and torch.equal(head.weight[:3], rows)
    assert not head.prototypes[3:].isnan().any()


def test_the_saved_state_is_what_eval_mode_needs_and_nothing_else():
    head = PrototypeHead(8, 3)
    assert head.state_dict().keys() == {"scale", "prototypes"}
    assert torch.equal(head.state_dict()["prototypes"], head.weight)
    fit(head, [(0, 3, 3)])
    head.grow(NAMES[3:])  # two classes without a prototype
    state = head.state_dict()
    assert state.keys() == {"scale", "prototypes"}
    assert torch.equal(state["prototypes"][:3], head.prototypes[:3])
    assert torch.equal(state["prototypes"][3:], head.weight[3:])
    assert not any(tensor.requires_grad for tensor in state.values())


@pytest.mark.parametrize("assign", [True, False])
def test_a_loaded_head_gives_the_same_logits_and_its_rows_begin_as_its_prototypes(assign):
    head, loaded = PrototypeHead(8, 5), PrototypeHead(8, 5)
    fit(head, [(0, 3, 3)])
    loaded.load_state_dict(head.state_dict(), assign=assign)
    features = torch.randn(4, 8)
    assert torch.equal(loaded.eval()(features), head.eval()(features))
    assert torch.equal(loaded.weight, loaded.prototypes)
    with torch.no_grad():
        loaded.weight.add_(1.0)
    assert torch.equal(loaded(features), head(features))


@pytest.mark.parametrize("fitted", [True, False])
def test_every_loading_route_reproduces_the_logits(fitted, tmp_path):
    config = ADAPTERS["ONE_PROMPT"](class_names=list(NAMES), head={"type": "prototype"})
    model = get_peft_model(base("vit"), config).eval()
    head = model.base_model.head_wrapper().head("default")
    if fitted:
        fit(head, [(0, 5, 5)])
    model.save_pretrained(str(tmp_path))
    keys = [key for key in load_file(tmp_path / "adapter_model.safetensors") if "classifier" in key]
    assert sorted(key.rpartition(".")[2] for key in keys) == ["prototypes", "scale"]
    expected = model(images()).logits
    for low_cpu_mem_usage in (False, True):
        loaded = PeftModel.from_pretrained(base("vit"), str(tmp_path), low_cpu_mem_usage=low_cpu_mem_usage).eval()
        assert torch.equal(loaded(images()).logits, expected)
        assert not any(p.is_meta for p in loaded.parameters())
        assert torch.equal(copy.deepcopy(loaded)(images()).logits, expected)
    plain = base("vit")
    plain.load_adapter(str(tmp_path))
    assert torch.equal(plain.eval()(pixel_values=images()).logits, expected)
