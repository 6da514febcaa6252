"""The contracts of hf_cl: six kinds of file (adapter, head, loss, gradient rule, scenario, probe) and what passes between them.

These modules know torch alone. Everybody may import them; they import nothing of the other rooms.

Shapes: B batch, N tokens, D feature width, E embedding width, C classes seen so far, S image side in pixels.
"""

from hf_cl.contracts.data import FromDomains, FromSource, ImageDataset, Scenario, Session, Test, domains_of, source_of
from hf_cl.contracts.forward import Context, FeatureSet, Outputs
from hf_cl.contracts.head import Head
from hf_cl.contracts.method import Method, Schedule, everything, is_head
from hf_cl.contracts.parts import GradientRule, LossTerm, Memory, NamedParameters, Part, Phase, Probe, Trainer

__all__ = [
    "Context",
    "FeatureSet",
    "FromDomains",
    "FromSource",
    "GradientRule",
    "Head",
    "ImageDataset",
    "LossTerm",
    "Memory",
    "Method",
    "NamedParameters",
    "Outputs",
    "Part",
    "Phase",
    "Probe",
    "Scenario",
    "Schedule",
    "Session",
    "Test",
    "Trainer",
    "domains_of",
    "everything",
    "is_head",
    "source_of",
]
