"""What is refused before any image is opened."""

import pytest

from hf_cl.methods import OvorSettings
from hf_cl.run import open_scenario


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"augmentation": "flipp"}, "Unknown augmentation 'flipp'. Did you mean 'flip'"),
        ({"head": {"type": "prototipe"}}, "Unknown head type 'prototipe'.*Did you mean 'prototype'"),
        ({"head": {"type:prototype": None}}, "has no type"),
        ({"class_order": "sed"}, "class_order 'sed' is neither .*Did you mean 'seed'"),
        ({"protocol": "class_incrementl"}, "Unknown protocol"),
        ({"shots": 5}, "has no 'shots'"),
    ],
)
def test_a_wrong_value_is_refused_before_the_data_is_looked_for(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        open_scenario(OvorSettings(**{"output_dir": str(tmp_path), "dataset": str(tmp_path / "no_such_data"), **values}))


def test_a_folder_with_a_run_is_refused_before_the_data_is_looked_for(tmp_path):
    (tmp_path / "checkpoints" / "step-000000001").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds a run\. Go on with it by --resume auto"):
        open_scenario(OvorSettings(output_dir=str(tmp_path), dataset=str(tmp_path / "no_such_data")))


@pytest.mark.parametrize("below", ["", "run"])
def test_a_file_in_the_place_of_the_folder_is_refused_before_the_data_is_looked_for(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=rf"Cannot write to .*: {tmp_path / 'file'} is a file\. Choose another --output_dir"):
        open_scenario(OvorSettings(output_dir=str(tmp_path / "file" / below), dataset=str(tmp_path / "no_such_data")))


def test_a_place_where_nobody_may_write_is_refused_before_the_data_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_cl.errors.os.access", lambda path, mode: path != tmp_path)  # whoever is root may write anywhere
    with pytest.raises(ValueError, match=rf"Cannot write to .*: {tmp_path} may not be written to\. Choose another --output_dir"):
        open_scenario(OvorSettings(output_dir=str(tmp_path / "new" / "run"), dataset=str(tmp_path / "no_such_data")))
