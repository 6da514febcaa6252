"""Runs that do not make an ensemble: everything that is wrong with all of them, at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from compared_runs import write_run
from example_results import example_results

from hf_cl.results.members import check_members, other_classes
from hf_cl.results.saved_run import read_run


def member(folder, sessions=3, **changes):
    run = write_run(folder, **changes)
    for session in range(sessions):
        (run / "adapters" / f"session-{session}").mkdir(parents=True)
    return run


def test_runs_that_go_together(tmp_path):
    check_members([read_run(member(tmp_path / str(seed), seed=seed)) for seed in range(3)])
    check_members([read_run(member(tmp_path / "a", method="lora")), read_run(member(tmp_path / "b"))])  # other methods may


def test_all_faults_at_once(tmp_path):
    first = member(tmp_path / "first")
    protocol = replace(example_results().protocol, class_order_seed=9)
    other = member(tmp_path / "other", sessions=2, protocol=protocol, settings={"backbone": "me/vit", "normalize": False})
    same = member(tmp_path / "same")
    with pytest.raises(ValueError) as error:
        check_members([read_run(folder) for folder in (first, other, same, first)])
    assert str(error.value).splitlines() == [
        f"{other}: it has no adapter of session 2; --keep_adapters all keeps them.",
        f"{first} and {same} are the same method, settings and seed: their average is either of them.",
        f"{first} is named twice; a member counts once.",
        f"{other} does not go with {first}: its class_order_seed is 9, not {example_results().protocol.class_order_seed}.",
        f"{other} does not go with {first}: its backbone is me/vit, not demo.",
        f"{other} does not go with {first}: its normalize is no, not –.",
    ]
    with pytest.raises(ValueError, match="An ensemble takes two runs or more, got 1"):
        check_members([read_run(first)])


def test_the_first_difference_of_classes():
    assert other_classes(["a", "b"], ["b", "a"]) == "its classes stand in another order; class 0 is 'b', not 'a'."
    assert other_classes(["a", "b"], ["a", "c"]) == "it has other classes: 'b' is missing, 'c' is there instead."
    assert other_classes(["a", "b"], ["a"]) == "it has other classes: 'b' is missing."
    assert other_classes(["a"], ["a", "b"]) == "it has other classes: 'b' is new."
