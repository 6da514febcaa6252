from __future__ import annotations

import pytest

from hf_cl.heads.text import TextHeadSpec, clean


def test_class_names_are_written_as_people_write_them():
    assert clean("pickup_truck") == "pickup truck"
    assert clean("cra") == "crab"  # CIFAR-100 on the Hub
    assert clean(" lawn__mower ") == "lawn mower"
    assert clean("crane") == "crane"
    assert clean("001.Black_footed_Albatross") == "Black footed Albatross"  # CUB-200's folders
    assert clean("737-800") == "737-800"


def test_texts_of_a_spec():
    assert TextHeadSpec.of({"type": "text", "template": "{}."}).texts(["aquarium_fish", "cra"]) == ["aquarium fish.", "crab."]
    raw = TextHeadSpec.of({"type": "text", "template": "a {} here", "clean_class_names": False})
    assert raw.texts(["aquarium_fish", "{x}"]) == ["a aquarium_fish here", "a {x} here"]


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"tempate": "{}"}, "no setting 'tempate'.*Did you mean 'template'"),
        ({"template": "a photo"}, "exactly one {}"),
        ({"template": "{} and {}"}, "exactly one {}"),
        ({"template": 3}, "exactly one {}"),
        ({"logit_scale": 0}, "positive number or 'model'"),
        ({"logit_scale": "base"}, "positive number or 'model'"),
        ({"logit_scale": True}, "positive number or 'model'"),
    ],
)
def test_malformed_settings(head, message):
    with pytest.raises(ValueError, match=message):
        TextHeadSpec.of({"type": "text", **head})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["crab", "cra"], "'crab' and 'cra' have the same text"),
        (["a_b", "a b"], "'a_b' and 'a b' have the same text"),
        (["a", "__"], "'__' is empty"),
    ],
)
def test_names_that_texts_cannot_tell_apart(names, message):
    with pytest.raises(ValueError, match=message):
        TextHeadSpec().texts(names)
