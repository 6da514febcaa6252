"""SESSION_NORM against numbers derived apart, peft's LayerNorm tuning, and streams whose domains a norm can undo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import two_towers
from peft import LNTuningConfig, PeftModel, get_peft_model
from tiny import base, images
from torch import Tensor, nn

from hf_cl.adapters import SessionNormConfig
from hf_cl.adapters.session_norm.domains import UNSEEN, by_rule, looks
from hf_cl.adapters.session_norm.layer import between

NUMBERS = np.load(Path(__file__).parents[2] / "reference" / "session_norm" / "norm.npz", allow_pickle=False)
KINDS = ("gamma", "beta")
CODES = {f"d{place}": float(code) for place, code in enumerate(NUMBERS["codes"])}  # -2, 0, 2: the scale of the codes is theirs
TABLE = {"conditioning": "table", "domains": ["day", "night"]}


def number(name: str) -> Tensor:
    return torch.tensor(NUMBERS[name], dtype=torch.float64)


def close(got: Tensor, name: str) -> None:
    torch.testing.assert_close(got, number(name), atol=1e-12, rtol=1e-12)


def reference() -> tuple[Any, Any]:
    """A lone norm with the tensors of the reference, and its tuner layer."""
    norm = nn.LayerNorm(5, eps=float(NUMBERS["eps"])).double()
    config = SessionNormConfig(conditioning="interpolate", codes=CODES, domains=list(CODES), target_modules=["0"])
    model: Any = get_peft_model(nn.Sequential(norm), config).double()
    layer = model.base_model.model[0]
    with torch.no_grad():
        layer.session_norm_scale["default"].copy_(torch.stack([number("gamma0"), number("gamma1")]) - norm.weight)
        layer.session_norm_shift["default"].copy_(torch.stack([number("beta0"), number("beta1")]) - norm.bias)
        layer.session_norm_curve["default"].copy_(torch.stack([number(f"{part}_{kind}") for kind in KINDS for part in "wc"]))
    return model, layer


def test_the_function_equals_the_reference_and_has_its_limits():
    for kind in KINDS:
        ends = torch.stack([number(f"{kind}0"), number(f"{kind}1")])
        curve = torch.stack([number(f"w_{kind}"), number(f"c_{kind}")])
        got = between(ends, curve, number("codes"))
        close(got, f"{kind}s")
        for place, end in ((1e3, 0), (-1e3, 1)):
            torch.testing.assert_close(between(ends, 0 * curve, torch.tensor(place).double()), ends[end], atol=1e-12, rtol=0)
        assert (between(ends.flip(0), curve, number("codes")) - got).abs().max() > 0.05  # the ends exchanged
        assert (between(ends, curve - torch.tensor([[1.0], [0.0]]), number("codes")) - got).abs().max() > 0.05  # w not counted from 1


@pytest.mark.parametrize("mixed", [False, True], ids=["a domain at a time", "all domains in a batch"])
def test_outputs_and_gradients_equal_the_reference(mixed):
    model, layer = reference()
    if mixed:
        with model.base_model.given({"domain": torch.arange(3).repeat_interleave(2)}):
            out = model(number("x").repeat(3, 1, 1)).view(3, 2, 3, 5)
    else:
        every = []
        for code in CODES:
            model.base_model.set_domain(code)
            every.append(model(number("x")))
        out = torch.stack(every)
    close(out, "out")
    (out * number("upstream")).sum().backward()
    for kind, held in zip(KINDS, (layer.session_norm_scale, layer.session_norm_shift), strict=True):
        for end in range(2):
            close(held["default"].grad[end], f"grad_{kind}{end}")
    for row, name in enumerate(("w_gamma", "c_gamma", "w_beta", "c_beta")):
        close(layer.session_norm_curve["default"].grad[row], f"grad_{name}")


@pytest.mark.parametrize(
    "settings", [{}, TABLE, {"conditioning": "interpolate", "codes": {"day": 1, "night": 3}, "domains": ["day", "night"]}]
)
def test_it_starts_as_the_identity_for_every_domain(settings):
    plain = base("vit")
    wanted = plain(images()).logits
    model: Any = get_peft_model(plain, SessionNormConfig(**settings))
    names = settings.get("domains", [None])
    for name in names:
        model.base_model.set_domain(name)
        assert torch.equal(model(images()).logits, wanted)
    model.base_model.set_domain(None)
    with model.base_model.given({"domain": torch.tensor([0, 1, 1, 0])}):
        torch.testing.assert_close(model(images()).logits, wanted, atol=1e-6, rtol=0)  # scale and shift apart from the norm round anew


@pytest.mark.filterwarnings("ignore:Unsupported layer type")  # peft's own LN_TUNING
def test_one_scale_for_all_is_pefts_layer_norm_tuning():
    ours: Any = get_peft_model(base("vit"), SessionNormConfig())
    named = r".*(layernorm_before|layernorm_after|layernorm)"
    theirs: Any = get_peft_model(base("vit"), LNTuningConfig(target_modules=named))
    for model in (ours, theirs):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(pixel_values=images()).logits, torch.tensor([0, 1, 0, 1])).backward()
            optimizer.step()
    torch.testing.assert_close(ours(images()).logits, theirs(images()).logits, atol=1e-5, rtol=0)
    plain: Any = base("vit")
    assert (ours(images()).logits - plain(images()).logits).abs().max() > 1e-4


def trained_table() -> Any:
    """Norms of two domains that differ."""
    model: Any = get_peft_model(base("vit"), SessionNormConfig(**TABLE, class_names=["a", "b"], init_weights=False))
    return model.eval()


def test_each_image_gets_the_norms_of_its_domain():
    model = trained_table()
    alone = []
    for name in TABLE["domains"]:
        model.base_model.set_domain(name)
        alone.append(model(images()).logits)
    model.base_model.set_domain(None)
    with model.base_model.given({"domain": torch.tensor([0, 1, 1, 0])}):
        together = model(images()).logits
    torch.testing.assert_close(together, torch.stack([alone[0][0], alone[1][1], alone[1][2], alone[0][3]]), atol=1e-5, rtol=0)
    assert (alone[0] - alone[1]).abs().max() > 0.01
    with model.base_model.given({"domain": torch.tensor([0, 1])}, times=2):  # two views of the same images
        torch.testing.assert_close(
            model(images()).logits, torch.stack([alone[d][i] for i, d in enumerate((0, 1, 0, 1))]), atol=1e-5, rtol=0
        )


def test_an_image_that_nobody_places_finds_its_domain_by_the_rule(tmp_path):
    model = trained_table()
    seen = model.base_model.looks("default", images())  # [4, 2 D]
    middle = seen.mean(0)
    direction = seen[1] - seen[0]
    rule = torch.stack([-direction, direction])
    model.base_model.write_rule("default", torch.cat([rule, -(rule @ middle)[:, None]], dim=1))
    which = by_rule(model.base_model._host("default").session_norm_rule["default"], seen)
    assert which[0] == 0 and which[1] == 1
    found = model(images()).logits
    with model.base_model.given({"domain": which}):
        assert torch.equal(model(images()).logits, found)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base("vit"), tmp_path).eval()
    assert torch.equal(again(images()).logits, found)
    with torch.no_grad():
        assert again.base_model._host("default").domains["default"].which is None  # nothing is left of a forward


def test_what_tells_a_domain_is_mean_and_deviation_of_the_tokens():
    tokens = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.cat([tokens.mean(1), tokens.std(1, correction=0).log()], dim=1)
    torch.testing.assert_close(looks(tokens), expected)
    torch.testing.assert_close(looks(tokens.view(3, 7, 1, 4)), expected)


def test_domains_that_come_later_begin_as_the_base_and_leave_the_others_alone():
    model = trained_table()
    model.base_model.set_domain("day")
    day = model(images()).logits
    model.base_model.grow_domains("default", ["day", "night", "fog"])
    assert torch.equal(model(images()).logits, day)
    layer = model.base_model._host("default")
    assert layer.session_norm_scale["default"].shape == (3, 32) and not layer.session_norm_scale["default"][2].any()
    assert layer.session_norm_rule["default"][2, -1] == UNSEEN
    assert model.peft_config["default"].domains == ["day", "night", "fog"]
    assert layer.session_norm_scale["default"].requires_grad


def test_merging_takes_a_domain_by_name_and_gives_the_base_back():
    model = trained_table()
    with pytest.raises(ValueError, match=r"has norms for the domains 'day', 'night', and a merged norm is one"):
        model.merge_adapter()
    model.base_model.set_domain("night")
    wanted = model(images()).logits
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.merge_adapter()
    torch.testing.assert_close(model(images()).logits, wanted, atol=1e-6, rtol=0)
    model.unmerge_adapter()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


TOWERS = {
    "clip": (lambda model, x: model.get_image_features(pixel_values=x).pooler_output, 14),  # 6 blocks of 2, and those around
    "siglip": (lambda model, x: model.get_image_features(pixel_values=x).pooler_output, 14),
    **dict.fromkeys(("deit", "clip_vision", "siglip_vision"), (lambda model, x: model(x).logits, 13)),
    "timm": (lambda model, x: model(x).logits, 5),
    "open_clip": (lambda model, x: model.encode_image(x), 10),
}


@pytest.mark.parametrize("family", list(TOWERS))
def test_all_norms_that_the_images_pass_and_no_others(family):
    run, count = TOWERS[family]
    plain: Any = two_towers.base(family) if family == "open_clip" else base(family)
    pixels = two_towers.images() if family == "open_clip" else images()
    wanted = run(plain, pixels)
    model: Any = get_peft_model(plain, SessionNormConfig(**TABLE))
    layers = [name for name, module in plain.named_modules() if type(module).__name__ == "SessionNormLayer"]
    assert len(layers) == count and not any("text" in name for name in layers)
    with model.base_model.given({"domain": torch.zeros(len(pixels), dtype=torch.long)}):
        out = run(plain, pixels)
    torch.testing.assert_close(out, wanted, atol=1e-4, rtol=1e-4)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad[0].any() and not p.grad[1].any() for p in model.parameters() if p.requires_grad)
    assert len(model.base_model.looks("default", pixels)) == len(pixels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conditioning": "tables"}, "none, table or interpolate"),
        ({"conditioning": "interpolate"}, "a number for each domain, of which two at least differ"),
        ({"conditioning": "interpolate", "codes": {"a": 1, "b": 1}}, "two at least differ"),
        ({"conditioning": "interpolate", "codes": {"a": 1, "b": 2}, "domains": ["c"]}, "codes has no number for 'c'; it has 'a', 'b'"),
        ({"conditioning": "table", "codes": {"a": 1, "b": 2}}, "table reads none"),
        ({"domains": ["a", "a"]}, "distinct, non-empty"),
        ({"target_modules": ["q_proj"]}, "'vit.layers.0.attention.q_proj' is a Linear"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        get_peft_model(base("vit"), SessionNormConfig(**settings))


def test_a_stream_without_domains_and_an_unknown_one_are_refused():
    with pytest.raises(ValueError, match="the sessions say none: take --protocol domain_incremental"):
        SessionNormConfig(conditioning="table").check_domains(())
    model = trained_table()
    with pytest.raises(ValueError, match="knows no domain 'dusk'; it has 'day', 'night'"):
        model.base_model.set_domain("dusk")
    graded: Any = get_peft_model(base("vit"), SessionNormConfig(conditioning="interpolate", codes={"a": 0, "b": 10}))
    graded.base_model.set_domain(2.5)
    assert graded.base_model._host("default").domains["default"].chosen == -1
    with pytest.raises(ValueError, match="outside of the codes that were trained, 0 to 10"):
        graded.base_model.set_domain(11)


def stream(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four domains whose channels are scaled and shifted along one direction, forth and back: features, labels, domains."""
    draw = torch.Generator().manual_seed(seed)
    means = torch.randn(6, 16, generator=draw)
    scale, shift = 0.4 * torch.randn(16, generator=draw), 1.5 * torch.randn(16, generator=draw)
    labels, domains = torch.randint(6, (2400,), generator=draw), torch.arange(2400) % 4
    clean = means[labels] + 0.8 * torch.randn(2400, 16, generator=draw)
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0])[domains][:, None]
    return clean * (1 + sign * scale) + sign * shift, labels, domains, F.layer_norm(means, (16,))


CONDITIONS: dict[str, dict[str, Any]] = {
    "one": {},
    "number of the session": {"conditioning": "interpolate", "codes": {"0": 0, "1": 1, "2": 2, "3": 3}},
    "right code": {"conditioning": "interpolate", "codes": {"0": 1, "1": -1, "2": 1, "3": -1}},
    "table": {"conditioning": "table"},
}


def accuracy(seed: int, settings: dict[str, Any], *, mixed_up: bool = False) -> float:
    """Norms trained under a fixed classifier on half of the images, tested on the others."""
    x, labels, domains, means = stream(seed)
    classifier = means - means.mean(0)
    if mixed_up:
        domains = domains[torch.randperm(len(domains), generator=torch.Generator().manual_seed(seed))]
    model: Any = get_peft_model(
        nn.Sequential(nn.LayerNorm(16)), SessionNormConfig(**settings, domains=list("0123") if settings else None, target_modules=["0"])
    )
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        with model.base_model.given({"domain": domains[:1200]}):
            F.cross_entropy(model(x[:1200]) @ classifier.T, labels[:1200]).backward()
        optimizer.step()
    with torch.no_grad(), model.base_model.given({"domain": domains[1200:]}):
        return float(((model(x[1200:]) @ classifier.T).argmax(1) == labels[1200:]).float().mean())


@pytest.mark.parametrize("seed", range(5))
def test_the_right_code_undoes_what_one_norm_cannot(seed):
    found = {name: accuracy(seed, settings) for name, settings in CONDITIONS.items()}
    assert found["right code"] > found["one"] + 0.01
    assert found["table"] >= found["right code"] - 0.01  # a row sees half as many images
    assert found["number of the session"] < found["one"] + 0.01  # the shift is not monotone in time
    assert accuracy(seed, CONDITIONS["right code"], mixed_up=True) < found["one"] + 0.01
