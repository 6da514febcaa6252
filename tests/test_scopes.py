import pytest
import torch
from torch import nn

from hf_cl.scopes import scoped

NAMES = [
    "layer.0.attention.q_proj.lora_A.default.weight",
    "layer.0.mlp.fc1.lora_A.default.weight",
    "blocks.1.attn.qkv.vals",
    "head.weight",
    "losses.x.p",
]
NAMED = [(name, nn.Parameter(torch.zeros(1))) for name in NAMES]


@pytest.mark.parametrize(
    ("scope", "expected"),
    [("adapter", [0, 1, 2]), ("qkv", [0, 2]), ("head", [3]), ("all", [0, 1, 2, 3, 4]), (r"mlp\.fc", [1]), ("weight$", [0, 1, 3])],
)
def test_a_scope_names_parameters(scope, expected):
    assert [name for name, _ in scoped(scope, NAMED, "x")] == [NAMES[i] for i in expected]


@pytest.mark.parametrize(
    ("scope", "message"),
    [("q_prj", "Did you mean 'q_proj'"), ("adaptre", "Did you mean 'adapter'"), ("(", "nor a regular expression"), ("zzz", "There are")],
)
def test_what_matches_nothing_is_refused(scope, message):
    with pytest.raises(ValueError, match=message):
        scoped(scope, NAMED, "x")
