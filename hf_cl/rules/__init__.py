"""Gradient rules: how an optimizer step's gradient comes about."""

from hf_cl.contracts import GradientRule
from hf_cl.rules.glad import Glad
from hf_cl.rules.gradient_dropout import GradientDropout
from hf_cl.rules.gradient_norm import GradientNorm
from hf_cl.rules.perp_grad import PerpGrad
from hf_cl.rules.perturbed import PerturbedRule
from hf_cl.rules.plain import Plain
from hf_cl.rules.prograd import ProGrad
from hf_cl.rules.recorded import recorded_rule
from hf_cl.rules.reference import AgainstReference
from hf_cl.rules.sagm import Sagm
from hf_cl.rules.sam import Sam
from hf_cl.rules.session_scaled import SessionScaled, session_scale

RULES: dict[str, type[GradientRule]] = {
    "none": Plain,
    "glad": Glad,
    "sam": Sam,
    "sagm": Sagm,
    "gradient_norm": GradientNorm,
    "prograd": ProGrad,
    "gradient_dropout": GradientDropout,
    "perp_grad": PerpGrad,
}
"""Name, as in `GladConfig.rule`, -> class."""

__all__ = [
    "RULES",
    "AgainstReference",
    "Glad",
    "GradientDropout",
    "GradientNorm",
    "PerpGrad",
    "PerturbedRule",
    "Plain",
    "ProGrad",
    "Sagm",
    "Sam",
    "SessionScaled",
    "recorded_rule",
    "session_scale",
]
