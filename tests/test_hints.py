from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from hf_cl.hints import build, faults_of, nearest, refuse


class Anchor:
    """A part with settings of several types."""

    def __init__(self, strength: float, *, roles: Sequence[str] = (), weight: float | Callable[[int], float] = 1.0) -> None:
        self.strength, self.roles, self.weight = strength, roles, weight


@dataclass
class Options:
    r: int = 8


PARTS = {"anchor": Anchor, "options": Options}


def test_the_nearest_name_is_offered_and_a_far_one_is_not():
    assert nearest("batch_sise", ["seed", "batch_size"]) == " Did you mean 'batch_size'?"
    assert nearest("zebra", ["seed", "batch_size"]) == ""
    assert nearest(3, ["seed"]) == ""  # what a config holds need not be text


def test_a_part_is_made_from_its_spec():
    made = build("part", PARTS, {"type": "anchor", "strength": 2, "roles": ["previous"]})
    assert isinstance(made, Anchor) and (made.strength, made.roles, made.weight) == (2, ["previous"], 1.0)
    given = build("part", PARTS, {"type": "anchor"}, given={"strength": 3.0})
    assert isinstance(given, Anchor) and given.strength == 3.0


@pytest.mark.parametrize(
    ("spec", "faults"),
    [
        ({"strength": 1}, ["has no type; give one of anchor, options"]),
        ({"type": "ancor"}, ["Unknown part type 'ancor'; this process knows anchor, options. Did you mean 'anchor'?"]),
        ({"type": "anchor"}, ["Part type 'anchor' needs strength."]),
        ({"type": "anchor", "strenth": 1}, ["has no setting 'strenth'; it has strength, roles, weight. Did you mean", "needs strength"]),
        ({"type": "anchor", "strength": "much", "weight": [1]}, ["strength: input should be a valid number", "weight: "]),
    ],
)
def test_everything_that_is_wrong_is_said_at_once(spec, faults):
    with pytest.raises(ValueError, match="art") as refused:
        build("part", PARTS, spec)
    said = str(refused.value).split("\n")
    assert len(said) == len(faults) and all(fault in line for fault, line in zip(faults, said, strict=True)), said


def test_what_is_given_cannot_be_set_and_other_types_can_be_known():
    (fault,) = faults_of("part", PARTS, {"type": "options", "r": 1}, given=("r",))
    assert fault == "Part type 'options' has no setting 'r'; it has none."
    assert faults_of("part", PARTS, {"type": "text", "whatever": 1}, also=("text",)) == []


def test_a_page_of_faults_is_cut():
    with pytest.raises(ValueError, match=r"fault 0\n(.*\n)*fault 7\nAnd 12 more\.$"):
        refuse([f"fault {number}" for number in range(20)])
