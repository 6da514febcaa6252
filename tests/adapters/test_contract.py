"""What every adapter type must do. A new type joins by one line in tiny.ADAPTERS and one in tiny.OTHER."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from peft import PeftModel, PeftType, get_peft_model
from processes import interpreter, run
from safetensors.torch import save_file
from tiny import ADAPTERS, ADAPTERS_OF_PRODUCERS, BUILDERS, NAMES, OTHER, RESTING, base, families, homes, images
from transformers import ViTImageProcessor

from hf_cl.adapters.bases import SUPPORT, YES

CONFIGS = ADAPTERS | ADAPTERS_OF_PRODUCERS
SUPPORTED = [
    *((kind, family) for kind in ADAPTERS for family in families(kind) if SUPPORT[kind].get(family) == YES),
    *((kind, "vit") for kind in ADAPTERS_OF_PRODUCERS),
    ("PROMPT_POOL/mvp", "clip_vision"),
]
"""A peft type, or one with another producer."""
ALIKE_COMPILED = [("PROMPT_POOL/l2p", "vit"), ("PROMPT_POOL/dual", "vit"), ("PROMPT_POOL/mvp", "clip_vision")]
ALIKE_COMPILED += [(kind, family) for kind, family in SUPPORTED if kind in ADAPTERS and family not in homes(kind)]
"""Little of these is new to the compiler, which takes up to four seconds for each."""
both = pytest.mark.parametrize(("kind", "family"), SUPPORTED)
each = pytest.mark.parametrize("kind", list(ADAPTERS))


def type_of(kind: str) -> str:
    return kind.partition("/")[0]


def learns_by_logits(kind: str, name: str) -> bool:
    return kind not in ADAPTERS_OF_PRODUCERS or "prompt_pool_k" not in name


def adapted(kind: str, family: str, names=NAMES[:3], head=None, **kwargs) -> PeftModel:
    model = get_peft_model(base(family), CONFIGS[kind](class_names=list(names), head=head or {"type": "linear"}, **kwargs))
    perturb(model)
    return model.eval()


@torch.no_grad()
def perturb(model) -> None:
    """Move every trainable tensor off its initial value, where a LoRA would be the identity."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def tower(model):
    """The vision tower of a classifier."""
    return model.vision_model if hasattr(model, "vision_model") else model.vit


def trainable(model) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@both
def test_only_adapter_and_head_train_and_each_gets_a_gradient(kind, family):
    model = adapted(kind, family).train()
    prefix = model.base_model.prefix
    names = trainable(model)
    assert names and all(prefix in name or "modules_to_save" in name for name in names)
    torch.nn.functional.cross_entropy(model(images()).logits, torch.arange(4) % 3).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in names.items() if learns_by_logits(kind, name))
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@both
def test_disable_adapter_is_the_base_to_the_bit(kind, family):
    plain = base(family)(images()).logits
    model = adapted(kind, family)
    adapted_logits = model(images()).logits
    assert not torch.equal(adapted_logits[:, :2], plain)
    with model.disable_adapter():
        assert torch.equal(model(images()).logits, plain)
        assert model.config.num_labels == 2
    assert torch.equal(model(images()).logits, adapted_logits)
    assert list(model.config.id2label.values()) == NAMES[:3]


@both
def test_one_image_does_not_depend_on_its_batch(kind, family):
    model = adapted(kind, family)
    together = model(images()).logits
    alone = torch.cat([model(image[None]).logits for image in images()])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


@both
def test_two_adapters_of_different_size(kind, family):
    model = adapted(kind, family)
    first = model(images()).logits
    model.add_adapter("other", OTHER[type_of(kind)](class_names=["x", "y"], head={"type": "cosine"}))
    assert torch.equal(model(images()).logits, first)
    model.set_adapter("other")
    second = model(images()).logits
    assert second.shape == (4, 2) and model.config.num_labels == 2
    assert all("other" in name for name in trainable(model))
    model.set_adapter("default")
    assert torch.equal(model(images()).logits, first)
    model.delete_adapter("other")
    assert torch.equal(model(images()).logits, first)
    assert not [name for name, _ in model.named_parameters() if ".other" in name]


@both
def test_the_head_grows_while_wrapped(kind, family):
    model = adapted(kind, family, **RESTING.get(type_of(kind), {}))
    before = model(images()).logits
    old_rows = model.base_model.head_wrapper().head("default").weight.clone()
    model.base_model.grow("default", NAMES[3:7])
    after = model(images()).logits
    assert torch.equal(model.base_model.head_wrapper().head("default").weight[:3], old_rows)
    torch.testing.assert_close(after[:, :3], before)
    assert after.shape == (4, 7)
    assert model.peft_config["default"].class_names == NAMES[:7]
    assert model.peft_config["default"].classes_per_session == [3, 4]
    assert list(model.config.label2id) == NAMES[:7]


@both
def test_deepcopy_and_pickle(kind, family):
    model = adapted(kind, family)
    want = model(images()).logits
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images()).logits, want)
        twin.base_model.grow("default", ["new"])
        assert twin.config.num_labels == 4 and model.config.num_labels == 3
    assert torch.equal(model(images()).logits, want)


@both
def test_eager_and_sdpa_agree(kind, family):
    model = adapted(kind, family)
    sdpa = model(images()).logits
    model.get_base_model().set_attn_implementation("eager")
    torch.testing.assert_close(model(images()).logits, sdpa, atol=1e-5, rtol=0)


@both
@pytest.mark.parametrize("before", [True, False], ids=["before injection", "after injection"])
def test_gradient_checkpointing(kind, family, before):
    plain = base(family)
    if before:
        plain.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    model = get_peft_model(plain, CONFIGS[kind](class_names=NAMES[:3]))
    if not before:
        plain.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    perturb(model)
    reference = adapted(kind, family).train()
    reference.load_state_dict(model.state_dict())
    for each in (model.train(), reference):
        torch.nn.functional.cross_entropy(each(images()).logits, torch.arange(4) % 3).backward()
    for (name, p), (_, q) in zip(trainable(model).items(), trainable(reference).items(), strict=True):
        if learns_by_logits(kind, name):
            assert p.grad is not None, name
            torch.testing.assert_close(p.grad, q.grad, atol=1e-6, rtol=1e-5)


@both
def test_half_precision_base_keeps_float32_adapter_and_head(kind, family):
    model = get_peft_model(base(family).to(torch.bfloat16), CONFIGS[kind](class_names=NAMES[:3]))
    assert {p.dtype for p in trainable(model).values()} == {torch.float32}
    logits = model(images().bfloat16()).logits
    assert logits.isfinite().all()
    logits.float().sum().backward()


@pytest.mark.parametrize(
    ("kind", "family"), [pytest.param(*pair, marks=pytest.mark.slow if pair in ALIKE_COMPILED else ()) for pair in SUPPORTED]
)
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo asks rows with a graph for theirs; it hides the warning itself
def test_compile_gives_the_same_logits(kind, family):
    model = adapted(kind, family)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(images()).logits, model(images()).logits)


@each
def test_unload_gives_the_base_layers_back(kind):
    plain = base(homes(kind)[0])
    features = tower(plain)(images()).last_hidden_state
    model = get_peft_model(plain, ADAPTERS[kind](class_names=NAMES[:3]))
    perturb(model)
    unloaded = model.unload()
    assert torch.equal(tower(unloaded)(images()).last_hidden_state, features)


@each
def test_registering_twice_changes_nothing(kind):
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    from hf_cl._peft import register_type

    member = PeftType[kind]
    register_type(kind, PEFT_TYPE_TO_CONFIG_MAPPING[member], PEFT_TYPE_TO_TUNER_MAPPING[member])
    assert list(PeftType).count(member) == 1
    assert pickle.loads(pickle.dumps(member)) is member and PeftType(kind) is member


@each
@pytest.mark.parametrize("family", list(BUILDERS))
def test_what_the_table_does_not_grant_is_refused_by_name(kind, family):
    if SUPPORT[kind].get(family) == YES:
        pytest.skip("granted: the tests above run it")
    with pytest.raises(ValueError, match=rf"{kind} does not support .*{family}"):
        get_peft_model(base(family), ADAPTERS[kind]())


@each
def test_an_adapter_of_another_base_is_refused(kind, tmp_path):
    first, second = homes(kind)
    adapted(kind, first).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"made for {first} .*this base is {second}"):
        PeftModel.from_pretrained(base(second), tmp_path)


@each
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("head", {"type": "evil"}, "evil"),
        ("format_version", 99, "format_version 99"),
        ("class_names", ["a", "a"], "more than once"),
        ("class_names", ["a", ""], "non-empty"),
    ],
)
def test_a_config_from_a_stranger_is_checked(kind, tmp_path, field, value, message):
    import json

    adapted(kind, homes(kind)[0]).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value, "classes_per_session": None}))
    with pytest.raises(ValueError, match=message):
        PeftModel.from_pretrained(base(homes(kind)[0]), tmp_path)


def save_for_fresh_process(kind: str, family: str, folder: Path) -> None:
    """Base, an adapter whose head grew five times, a second adapter, and the logits they give in this process."""
    base(family).save_pretrained(folder / "base")
    from transformers import AutoModelForImageClassification

    plain = AutoModelForImageClassification.from_pretrained(folder / "base").eval()
    model = get_peft_model(plain, CONFIGS[kind](class_names=NAMES[:2])).eval()
    for session in range(5):
        model.base_model.grow("default", NAMES[2 + session : 3 + session])
        perturb(model)
    if kind == "HYPER_LORA":  # images of different sessions
        queries = model.base_model.queries(images())  # [4, Q]
        model.base_model.write_means("default", 0, torch.cat([-queries[:3], queries]))
        assert model.base_model.generator("default").session_of_query(queries).tolist() == [2, 3, 4, 5]
    with torch.no_grad():
        want = model(images()).logits
        model.save_pretrained(folder / "first")
        model.add_adapter("other", OTHER[type_of(kind)](class_names=["x", "y", "z"], head={"type": "cosine", "scale": 20.0}))
        model.set_adapter("other")
        perturb(model)
        other = model(images()).logits
        model.save_pretrained(folder / "both", selected_adapters=["other"])
    (folder / "both" / "other").rename(folder / "second")
    for place in ("base", "first"):  # transformers' pipeline takes the processor of the base
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / place)
    (folder / "names.txt").write_text("\n".join(NAMES[:7]))
    save_file({"pixels": images(), "want": want, "other": other}, folder / "reference.safetensors")


def check_in_a_fresh_process(start, pairs, folder: Path) -> None:
    """`start` of `processes` runs the script over the adapters of these (kind, family)."""
    folders = []
    for number, (kind, family) in enumerate(pairs):
        folders.append(folder / str(number) / family)
        folders[-1].mkdir(parents=True)
        save_for_fresh_process(kind, family, folders[-1])
    done = start(Path(__file__).with_name("fresh_process.py"), *folders)
    assert done.status == 0, done.output[-3000:]


@each
def test_loading_routes_in_a_fresh_process(kind, tmp_path):
    """On the families that are most unlike each other; of a type with several producers each on its own."""
    of_type = [(which, family) for which, family in SUPPORTED if type_of(which) == kind]
    check_in_a_fresh_process(run, [(which, family) for which, family in of_type if which != kind or family in homes(kind)], tmp_path)


@pytest.mark.slow
@each
def test_loading_routes_on_every_family_in_a_python_that_begins_from_nothing(kind, tmp_path):
    check_in_a_fresh_process(interpreter, [(which, family) for which, family in SUPPORTED if type_of(which) == kind], tmp_path)


def test_merging_leaves_the_head_alone():
    model = adapted("GLAD", "vit")
    before = model(images()).logits
    model.merge_adapter()
    torch.testing.assert_close(model(images()).logits, before, atol=1e-5, rtol=0)
    model.unmerge_adapter()
    torch.testing.assert_close(model(images()).logits, before, atol=1e-5, rtol=0)
