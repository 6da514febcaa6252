"""The same picture more than once in a stream."""

import logging

import pytest
from photos_with_copies import write_photos

from hf_cl.run import open_scenario
from hf_cl.run.pictures import warn_of_copies
from hf_cl.scenarios import class_incremental, open_images
from hf_cl.scenarios.catalog import catalog
from hf_cl.scenarios.copies import copy_sentences, find_copies
from hf_cl.settings import RunSettings


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos")


def sentences_of(settings):
    stream = open_scenario(settings)
    pictures = catalog(stream, stream.class_names)
    return copy_sentences(find_copies(pictures), pictures)


SAID = [
    "1 test picture of 17 is also trained on, pixel by pixel, so accuracy on them says nothing: test/apple/leak.bmp = train/apple/3.png.",
    "1 picture stands under several labels: train/apple/5.png (apple) = train/cloud/two labels.png (cloud).",
    "2 training pictures repeat another one, 1 of them in several sessions.",
]


@pytest.mark.parametrize("look", ["all", "changed", "header", "none"])
def test_copies_are_known_from_the_look_at_the_pictures(photos, tmp_path, look):
    """Of pictures that nobody has decoded, now or before, nothing is known."""
    values = {"dataset": str(photos), "num_base_classes": 2, "classes_per_session": 1, "class_order": "natural"}
    settings = RunSettings(**values, output_dir=str(tmp_path / "run"), check_images=look)
    assert sentences_of(settings) == (SAID if look in ("all", "changed") else [])
    if look == "changed":
        assert sentences_of(settings) == SAID, "the second start decodes none and has the digests of the first"


def test_training_warns_and_leaves_nothing_out(photos, caplog):
    stream = class_incremental(open_images(str(photos)), 3, 1)
    with caplog.at_level(logging.WARNING):
        warn_of_copies(stream)
    assert "1 test picture of 17" in caplog.text and "--write_exclude" in caplog.text
    assert sum(len(session.train) for session in stream) == 39


def test_what_is_clean_is_not_spoken_of(caplog):
    stream = class_incremental(open_images("digits"), 5, 5)
    warn_of_copies(stream)
    assert not caplog.text
    pictures = catalog(stream, stream.class_names)
    assert len(pictures) == 1797, "each once, although tests come again in every session"
    assert [pictures.part(0), pictures.part(1796)] == ["train", "test"] and pictures.session.max() == 1
    assert not find_copies(pictures)
