"""What is wrong with a folder of photos is found, named, shown, written down and left out."""

import json
from dataclasses import replace

import numpy as np
import pytest
from html_page import Page
from photos_with_copies import CLASSES, TRAIN, photo, write_photos
from PIL import Image

from hf_cl.backbones import load_backbone
from hf_cl.data_check import Options, check, check_data, left_out
from hf_cl.data_check.page import as_json, render_page, write_files
from hf_cl.data_check.report import Alike, DataReport, Group, Picture, summary
from hf_cl.errors import DataError
from hf_cl.methods.frozen import FrozenSettings
from hf_cl.run import open_scenario
from hf_cl.scenarios.exclude import line_of


def settings_of(folder, **values):
    given = {"num_base_classes": 2, "classes_per_session": 1, "class_order": "natural", "cpu": True, "output_dir": str(folder) + "-out"}
    return FrozenSettings(dataset=str(folder), **{**given, **values})


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def found(photos):
    return check_data(settings_of(photos), Options(difficulty=True))


def groups_of(report, **wanted):
    return [
        sorted(picture.name for picture in group.pictures)
        for group in report.groups
        if all(getattr(group, name) == value for name, value in wanted.items())
    ]


def test_copies_are_found_and_leaks_among_them(found):
    report = found.report
    assert report.counts == {"train": 3 * TRAIN + 3, "test": 17} and report.classes == 3
    assert groups_of(report, exact=True, leaks=True) == [["test/apple/leak.bmp", "train/apple/3.png"]]
    assert groups_of(report, exact=True, two_labels=True) == [["train/apple/5.png", "train/cloud/two labels.png"]]
    assert groups_of(report, exact=True, leaks=False, two_labels=False) == [["train/cloud/6.png", "train/cloud/twice.png"]]
    assert groups_of(report, exact=False) == [["test/birch/near.png", "train/birch/4.png"]]
    assert (report.leaked, report.nearly_leaked, report.two_labels, report.repeated) == (1, 1, 1, 2)
    assert report.overlap is not None and (report.overlap.found, report.overlap.looked) == (2, 17)
    assert report.near is not None and report.near.tells and report.near.recognised > 0.9 and report.near.foreign == 0


def test_the_wrong_label_is_the_first_to_look_at(found):
    report = found.report
    by_name = {suspect.picture.name: suspect for suspect in report.suspects}
    wrong = by_name["train/birch/wrong.png"]
    assert wrong.suggested == "cloud" and wrong.picture.label == "birch"
    assert wrong in report.suspects[:2]  # the picture under two labels is wrong in one of them
    assert len(report.suspects) <= 4 and all(suspect.suspicion > 0 for suspect in report.suspects)


def test_sessions_and_classes(found):
    sessions = found.report.sessions
    assert [(one.session, one.new_classes, one.known_classes, one.pictures) for one in sessions] == [(0, 2, 2, 37), (1, 1, 3, 19)]
    assert all(one.accuracy > 0.9 and one.nats > 0 for one in sessions)
    assert {*CLASSES} >= {name for pair in found.report.alike for name in (pair.first, pair.second)}


def test_what_is_left_out_leaves_nothing_to_find(photos, found, tmp_path):
    leave = {picture.name: why for picture, why in left_out(found.report)}
    assert leave == {
        "train/apple/3.png": "the same as test/apple/leak.bmp",
        "train/apple/5.png": "stands under apple and cloud",
        "train/cloud/two labels.png": "stands under apple and cloud",
        "train/cloud/twice.png": "the same as train/cloud/6.png",
        "train/birch/4.png": "nearly the same as test/birch/near.png",
    }
    file = tmp_path / "leave out.txt"
    file.write_text("".join(line_of(name, why) for name, why in leave.items()))
    again = check_data(settings_of(photos, exclude=str(file)), Options()).report
    assert not again.groups and again.leaked == again.nearly_leaked == 0 and again.counts["train"] == 3 * TRAIN + 3 - 5
    protocol = open_scenario(settings_of(photos, exclude=str(file))).protocol
    assert protocol["details"]["excluded"]["images"] == 5


def test_the_page_shows_what_data_json_says(found, tmp_path):
    page, numbers = write_files(tmp_path / "new", found)
    values = json.loads(numbers.read_text())
    assert values["leaked"] == 1 and [group["leaks"] for group in values["groups"]] == [True, True, False, False]
    assert len(values["leave_out"]) == 5 and values["summary"] == summary(found.report)
    html = page.read_text()
    parsed = Page(html)
    shown = sum(len(group.pictures) for group in found.report.groups) + len(found.report.suspects)
    assert parsed.tags.count("img") == shown and html.count("data:image/png;base64,") + html.count("data:image/jpeg;base64,") == shown
    assert '="http' not in html and "the same, pixel by pixel, several labels" in html


def test_names_cannot_change_the_page(found):
    alike = [Alike("<i>x</i>", "birch", 0.9, (0, 1))]
    evil = replace(found.report, dataset="<script>alert(1)</script>", alike=alike)
    html = render_page(replace(found, report=evil))
    assert "<script>alert" not in html and "<i>x</i>" not in html and "&lt;i&gt;x" in html


def test_features_that_know_no_picture_again_tell_no_near_copies(photos, monkeypatch):
    draw = np.random.default_rng(0)
    monkeypatch.setattr(check, "backbone_features", lambda *_: lambda data: draw.normal(size=(len(data), 8)).astype(np.float32))
    report = check_data(settings_of(photos), Options()).report
    assert report.near is not None and not report.near.tells and not groups_of(report, exact=False) and report.nearly_leaked == 0
    assert any(sentence.startswith("Near copies cannot be told here") for sentence in summary(report))


def test_fast_runs_no_model(photos, monkeypatch):
    monkeypatch.setattr(check, "load_backbone", None)
    report = check_data(settings_of(photos), Options(fast=True)).report
    assert report.backbone is None and report.near is None and not report.sessions and len(report.groups) == 3
    assert as_json(report)["near"] is None


def test_how_much_is_in_another_data_set(photos, tmp_path):
    for name, label in (("first", 0), ("second", 1)):
        (tmp_path / "other" / name).mkdir(parents=True)
        for number in (3, 7, 200, 201):
            photo(label, number).save(tmp_path / "other" / name / f"{number}.png")
    against = check_data(settings_of(photos), Options(against=str(tmp_path / "other"))).report.against
    assert against is not None and against.dataset == "other"
    assert ("test/apple/leak.bmp", "first/3.png") in against.pairs and ("train/birch/7.png", "second/7.png") in against.pairs
    assert against.overlap.found == 5 and against.overlap.looked == 56  # 3 and 7 of two classes, and the leaked copy


def test_pictures_that_are_all_equal_are_an_error(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "grey" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "grey" / name / f"{number}.png")
    with pytest.raises(DataError, match="all 6 pictures are equal"):
        check_data(settings_of(tmp_path / "grey", num_base_classes=1), Options(fast=True))


@pytest.mark.parametrize("values", [{"sample": 0}, {"foreign_limit": 1.5}, {"fast": True, "difficulty": True}])
def test_options_that_are_none_are_refused(values):
    with pytest.raises(ValueError, match=r"sample|foreign_limit|fast"):
        Options(**values)


def one(name, label, part="train"):
    return Picture(name, part, 0, label)


def test_no_class_loses_its_last_training_picture():
    near = Group([one("a", "cat"), one("b", "cat", "test")], exact=False)
    twice = Group([one("c", "dog"), one("d", "dog", "test")], exact=True)
    report = DataReport("x", None, {"train": 3, "test": 2}, {"cat": 1, "dog": 2}, groups=[near, twice])
    assert [(picture.name, why) for picture, why in left_out(report)] == [("b", "trained on as a"), ("c", "the same as d")]


def test_data_without_tests_and_with_many_of_them_say_so():
    report = DataReport("x", None, {"train": 3}, {"cat": 3})
    assert summary(report)[0].startswith("There are no test pictures")
    assert summary(replace(report, counts={"train": 3, "test": 2}))[0] == "No test picture of 2 is also trained on."


def test_names_that_say_nothing_to_the_text_tower_are_named():
    settings = FrozenSettings(dataset="x", backbone="demo_clip")
    names = ["lizard", "sku 1037", "sku 1074", "house", "xq-7", "zz9"]
    (remark,) = check._codes(load_backbone("demo_clip"), settings, names)
    assert remark.startswith("4 of 6 class names hold no word that the text tower of demo_clip knows: 'sku 1037', 'sku 1074', 'xq-7', ....")
    assert check._codes(load_backbone("demo_clip"), settings, names[::3]) == []
    assert check._codes(load_backbone("demo"), replace(settings, backbone="demo"), names) == [], "a ViT reads no names"
