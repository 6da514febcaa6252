"""Adapters of strangers: a model with exactly the tensors of the file, or one sentence and a base as it was."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from hostile_cases import cases, check_message, damaged, names, poison, values
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load, load_file, save
from tiny import ADAPTERS, base, homes
from transformers import ViTImageProcessor

import hf_cl

KINDS = list(ADAPTERS)
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


class Case:
    """One adapter type: its files as they should be, a folder to write worse ones into, and one base for all cases."""

    def __init__(self, kind: str, root: Path) -> None:
        self.kind, self.folder, self.whole = kind, root / kind, {}
        self.family = homes(kind)[0]
        base(self.family).save_pretrained(root / f"base-{kind}")
        model = get_peft_model(base(self.family), ADAPTERS[kind](class_names=["cat", "dog", "cow"]))
        model.peft_config["default"].base_model_name_or_path = str(root / f"base-{kind}")
        model.save_pretrained(self.folder)
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(self.folder)
        for name in (CONFIG, TENSORS, "preprocessor_config.json"):
            self.whole[name] = (self.folder / name).read_bytes()
        self.config = json.loads(self.whole[CONFIG])
        self.fresh()

    def fresh(self) -> None:
        self.base = base(self.family)
        self.before = {name: tensor.clone() for name, tensor in self.base.state_dict().items()}

    def write(self, **files: bytes) -> None:
        for name, data in self.whole.items():
            (self.folder / name).write_bytes(files.get(name.split(".")[0], data))

    def check_base(self) -> None:
        """The base has its own modules, values, labels and gradients, and nothing else."""
        after = self.base.state_dict()
        assert list(after) == list(self.before)
        assert all(torch.equal(after[name], tensor) for name, tensor in self.before.items())
        assert all(p.requires_grad for p in self.base.parameters())
        assert self.base.num_labels == len(self.base.config.id2label) == 2
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in self.base.modules())

    def load(self) -> None:
        """Through stock peft, onto the shared base."""
        try:
            model = PeftModel.from_pretrained(self.base, self.folder)
        except ValueError as error:
            check_message(error, self.folder)
            self.check_base()
        else:
            self.check_tensors(model)
            self.fresh()

    def check_tensors(self, model: PeftModel) -> None:
        found, file = get_peft_model_state_dict(model, save_embedding_layers=False), load_file(self.folder / TENSORS)
        assert found.keys() == file.keys()
        for name, tensor in file.items():
            assert torch.equal(found[name], tensor.to(found[name].dtype)) or tensor.isnan().any()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    made = {kind: Case(kind, root) for kind in KINDS}
    before = set(root.rglob("*"))
    yield made
    assert set(root.rglob("*")) == before  # nothing is written by loading


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of keys it does not know, torch of NaN in integers
        yield


KEYS = ["r", "head", "class_names", "classes_per_session", "base_signature", "target_modules", "layer_tokens", "modules_to_save"]


@st.composite
def changes(draw: st.DrawFn, config: dict) -> dict:
    """A config with some entries replaced, removed or added, still of its peft type."""
    config = dict(config)
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from([key for key in config if key != "peft_type"]) | st.sampled_from(KEYS) | names)
        if key == "peft_type":
            continue
        config[key] = draw(values)
        if draw(st.integers(0, 4)) == 0:
            del config[key]
    return config


@pytest.mark.parametrize("kind", KINDS)
@cases
@given(data=st.data())
def test_any_config(made, kind, data):
    case = made[kind]
    case.write(adapter_config=json.dumps(data.draw(changes(case.config))).encode())
    case.load()


@st.composite
def tensors(draw: st.DrawFn, whole: bytes) -> bytes:
    """A whole file with other tensors: renamed, left out, added, of other shapes and types, or not finite."""
    found = dict(load(whole))
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(found)))
        what = draw(st.sampled_from(["drop", "rename", "add", "shape", "type", "nan", "scalar", "permute"]))
        tensor = found[name]
        if what in ("drop", "rename") and len(found) > 1:
            del found[name]
        if what in ("rename", "add"):
            found[draw(st.sampled_from([name + "x", name.upper(), "evil", "base_model.model." + name, "../../x"]))] = tensor.clone()
        elif what == "shape":
            found[name] = tensor.new_ones([*tensor.shape[:-1], draw(st.integers(0, 5))])
        elif what == "type":
            found[name] = tensor.to(
                draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8]))
            )
        elif what == "nan":
            found[name] = torch.full_like(tensor, float("nan") if tensor.is_floating_point() else -1)
        elif what == "scalar":
            found[name] = tensor.new_ones(())
        elif what == "permute":
            found[name] = tensor.flip(0).contiguous() if tensor.dim() else tensor
    return save(found)


@pytest.mark.parametrize("kind", KINDS)
@cases
@given(data=st.data())
def test_any_tensors(made, kind, data):
    case = made[kind]
    case.write(adapter_model=data.draw(tensors(case.whole[TENSORS])))
    case.load()


@pytest.mark.parametrize("kind", KINDS)
@cases
@given(data=st.data())
def test_any_damage_of_the_tensors_file(made, kind, data):
    case = made[kind]
    case.write(adapter_model=data.draw(damaged(case.whole[TENSORS]) | st.binary(max_size=200)))
    case.load()


@cases
@given(data=st.data())
def test_any_damage_of_any_file_through_our_own_loader(made, data):
    case = made[data.draw(st.sampled_from(KINDS))]
    name = data.draw(st.sampled_from(sorted(case.whole)))
    case.write(**{name.split(".")[0]: data.draw(damaged(case.whole[name]))})
    try:
        classifier = hf_cl.load(case.folder, device="cpu")
    except ValueError as error:
        check_message(error, case.folder)
    else:
        case.check_tensors(classifier.model)


@cases
@given(data=st.data())
def test_any_config_through_our_own_loader(made, data):
    case = made[data.draw(st.sampled_from(KINDS))]
    name = data.draw(st.sampled_from([CONFIG, "preprocessor_config.json"]))
    content = json.loads(case.whole[name])
    content[data.draw(st.sampled_from(sorted(content)))] = data.draw(values)
    case.write(**{name.split(".")[0]: json.dumps(content).encode()})
    try:
        classifier = hf_cl.load(case.folder, device="cpu")
    except ValueError as error:
        check_message(error, case.folder)
    else:
        case.check_tensors(classifier.model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_adapter_that_does_not_fit_leaves_the_first_one_as_it_was(made, kind):
    case = made[kind]
    case.write()
    model = PeftModel.from_pretrained(base(case.family), case.folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    case.write(adapter_model=save({name: t for name, t in load(case.whole[TENSORS]).items() if "classifier" not in name}))
    with pytest.raises(ValueError, match=r"lacks classifier.bias, classifier.weight"):
        model.load_adapter(case.folder, "second")
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert list(model.peft_config) == ["default"] and model.get_base_model().num_labels == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["adapter_model.bin", TENSORS, "pytorch_model.bin"])
def test_a_pickle_is_never_read(made, kind, place, tmp_path):
    case, canary = made[kind], tmp_path / "canary"
    folder = tmp_path / "adapter"
    folder.mkdir()
    case.write()
    for name in (CONFIG, "preprocessor_config.json"):
        (folder / name).write_bytes(case.whole[name])
    (folder / place).write_bytes(poison(canary))
    if place == "pytorch_model.bin":  # a base that the stranger's config names
        (folder / "config.json").write_bytes(Path(case.config["base_model_name_or_path"], "config.json").read_bytes())
        (folder / CONFIG).write_text(json.dumps({**case.config, "base_model_name_or_path": str(folder)}))
        (folder / TENSORS).write_bytes(case.whole[TENSORS])
    with pytest.raises(ValueError) as caught:
        hf_cl.load(folder)
    check_message(caught.value, folder)
    if place != "pytorch_model.bin":
        with pytest.raises(ValueError) as caught:
            PeftModel.from_pretrained(case.base, folder)
        check_message(caught.value, folder)
        case.check_base()
    assert not canary.exists()


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_code_beside_an_adapter_is_never_run(made, file, tmp_path):
    case, canary = made["ONE_PROMPT"], tmp_path / "canary"
    source = Path(case.config["base_model_name_or_path"])
    for path in (*source.iterdir(), *case.folder.iterdir()):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    case.write()
    (tmp_path / "evil.py").write_text(f"from pathlib import Path\nPath({str(canary)!r}).touch()\nclass Evil: pass\n")
    entries = {"AutoConfig": "evil.Evil", "AutoModelForImageClassification": "evil.Evil", "AutoImageProcessor": "evil.Evil"}
    content = {**json.loads((tmp_path / file).read_text()), "auto_map": entries}
    if file == "config.json":
        content["model_type"] = "evil"
    else:
        content["image_processor_type"] = "Evil"
    (tmp_path / file).write_text(json.dumps(content))
    (tmp_path / CONFIG).write_text(json.dumps({**case.config, "base_model_name_or_path": str(tmp_path)}))
    with pytest.raises(ValueError) as caught:
        hf_cl.load(tmp_path)
    check_message(caught.value, tmp_path)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("GLAD", {"r": 10**9}, "no low rank"),
        ("ASYNC_LORA", {"r": 10**9}, "no low rank"),
        ("ONE_PROMPT", {"layer_tokens": {"0": 10**9}}, "more than any backbone reads"),
        ("CPE_CLIP", {"num_prompt_tokens": 10**9}, "more than any tower reads"),
        ("SARA", {"nnz_pattern": {"vit.layers.0.mlp.fc1": 10**9}}, "1000000000 trained entries"),
        ("GLAD", {"init_lora_weights": "pissa"}, "init_lora_weights must be one of"),
        ("GLAD", {"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "it has no megatron_config"),
        ("GLAD", {"target_modules": "(("}, "read as a regular expression"),
        ("GLAD", {"r": "four"}, "r cannot be 'four'"),
    ],
)
def test_a_config_cannot_ask_for_what_no_adapter_needs(made, kind, change, message):
    case = made[kind]
    case.write(adapter_config=json.dumps({**case.config, **change}).encode())
    with pytest.raises(ValueError, match=message):
        PeftModel.from_pretrained(case.base, case.folder)
    case.check_base()


def test_a_deeply_nested_config_is_refused(made):
    case = made["GLAD"]
    case.write(adapter_config=b'{"peft_type": ' + b"[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply") as caught:
        hf_cl.load(case.folder)
    check_message(caught.value, case.folder / CONFIG)


def test_a_processor_cannot_ask_for_huge_images(made):
    case = made["GLAD"]
    case.write(
        preprocessor_config=json.dumps(
            {**json.loads(case.whole["preprocessor_config.json"]), "size": {"height": 9, "width": 10**6}}
        ).encode()
    )
    with pytest.raises(ValueError, match="sides go up to 4096"):
        hf_cl.load(case.folder)


@pytest.mark.parametrize("values", [{"alpha_pattern": None, "rank_pattern": None}, {"trainable_token_indices": []}])
def test_nothing_where_lora_has_an_extra_is_no_extra(made, values):
    case = made["GLAD"]
    case.write(adapter_config=json.dumps({**case.config, **values}).encode())
    case.check_tensors(PeftModel.from_pretrained(base(case.family), case.folder))


def test_a_config_that_was_changed_is_a_template_and_no_longer_bound_to_its_file(made):
    case = made["GLAD"]
    case.write()
    config = type(ADAPTERS["GLAD"]()).from_pretrained(case.folder)
    config.class_names, config.classes_per_session = ["one", "two"], None
    assert get_peft_model(base(case.family), config).get_base_model().num_labels == 2
