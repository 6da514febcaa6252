import numpy as np
import pytest
from example_results import example_results

from hf_cl.results.class_confusion import FILE, read_confusion, write_confusion

PAIRS = np.array([[0, 0, 36], [0, 3, 14], [1, 5, 10], [3, 3, 19], [4, 0, 1], [5, 1, 4], [6, 6, 16]])
RESULTS = example_results(session_confusion=[[36, 14, 10], [1, 19, 0], [4, 0, 16]])


def test_what_was_written_comes_back(tmp_path):
    write_confusion(tmp_path, PAIRS)
    found = read_confusion(tmp_path, RESULTS)
    assert (found.pairs == PAIRS).all()
    assert found.images.tolist() == [50, 10, 0, 19, 1, 4, 16]


def test_counts_of_another_evaluation_are_none_of_these(tmp_path):
    assert read_confusion(tmp_path, RESULTS) is None
    write_confusion(tmp_path, PAIRS[1:])
    assert read_confusion(tmp_path, RESULTS) is None
    write_confusion(tmp_path, np.array([[0, 7, 100]]))  # a class that came later
    assert read_confusion(tmp_path, RESULTS) is None
    assert read_confusion(tmp_path, example_results()) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"pairs": [[1, 2]]}', '{"pairs": "x"}', "null"])
def test_something_else_is_refused_by_name(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ValueError, match=rf"{FILE}: expected pairs"):
        read_confusion(tmp_path, RESULTS)
