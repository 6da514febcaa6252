import pytest
import torch

from hf_cl.memory.sample_table import SampleTable


def test_rows_are_found_by_sample_id():
    table = SampleTable([7, 3, 100], 2)
    table.write(torch.tensor([100, 3]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    values, known = table.read(torch.tensor([3, 7, 100, 8]))
    assert values[:3].tolist() == [[3.0, 4.0], [0.0, 0.0], [1.0, 2.0]]
    assert known.tolist() == [True, True, True, False]
    assert table.ids().tolist() == [3, 7, 100]


def test_what_is_not_valid_or_not_known_is_passed_over():
    table = SampleTable([1, 2], 1)
    table.write(torch.tensor([1, 2, 9]), torch.ones(3, 1), torch.tensor([True, False, True]))
    assert table.read(torch.tensor([1, 2]))[0].tolist() == [[1.0], [0.0]]


def test_a_copy_and_a_restored_table_have_values_of_their_own():
    table = SampleTable([1, 2], 1)
    other, restored = table.copy(), SampleTable([1, 2], 1)
    table.write(torch.tensor([2]), torch.ones(1, 1))
    restored.load_state_dict(table.state_dict())
    assert other.read(torch.tensor([2]))[0].item() == 0
    assert restored.read(torch.tensor([2]))[0].item() == 1


def test_ids_that_stand_twice_are_refused():
    with pytest.raises(ValueError, match="1 of 3 stand more than once"):
        SampleTable([4, 4, 5], 1)
