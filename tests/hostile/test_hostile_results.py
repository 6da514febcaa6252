"""results.json of strangers: what it says follows from its matrices, or one sentence names the file and the key."""

from __future__ import annotations

import json

import pytest
from example_results import base_to_novel_results, example_results, probed_results
from hostile_cases import cases, check_message, damaged, names, values
from hypothesis import given
from hypothesis import strategies as st

from hf_cl.metrics import summarize
from hf_cl.results.results import Results

WHOLE = [json.dumps(results().to_dict()).encode() for results in (example_results, base_to_novel_results, probed_results)]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("results") / "results.json"


def read(file, data: bytes) -> None:
    file.write_bytes(data)
    try:
        results = Results.load(file)
    except ValueError as error:
        check_message(error, file)
    else:
        stored = json.loads(data)
        assert results.metrics == summarize(results) and results.metrics.keys() == stored["metrics"].keys()
        results.save(file)
        assert Results.load(file) == results


@cases
@given(data=st.data())
def test_any_damage(file, data):
    read(file, data.draw(damaged(data.draw(st.sampled_from(WHOLE)))))


@cases
@given(data=st.data())
def test_any_value_anywhere(file, data):
    content = json.loads(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(1, 2))):
        place = content
        key = data.draw(st.sampled_from(sorted(place)))
        while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
            key = data.draw(st.sampled_from(sorted(place)) if isinstance(place, dict) else st.integers(0, len(place) - 1))
        if data.draw(st.integers(0, 4)) == 0 and isinstance(place, dict):
            key = data.draw(names)
        place[key] = data.draw(values)
    read(file, json.dumps(content).encode())


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b'{"format_version": ' * 50_000, b"\xff\xfe", b"1" * 5000, b'{"format_version": 1}', b"null"]
)
def test_what_is_no_results_file(file, data):
    file.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        Results.load(file)
    check_message(caught.value, file)
