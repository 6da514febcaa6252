"""data.html: what was found, with the pictures, on one page that needs nothing else; and data.json, the same in numbers."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from hf_cl.data_check.check import Found
from hf_cl.data_check.report import DataReport, Group, Picture, left_out, summary
from hf_cl.results.atomic_write import write_atomically
from hf_cl.results.examples import data_url
from hf_cl.results.pages import page_templates

GROUPS, OF_EACH, SUSPECTS, ALIKE = 60, 6, 120, 40
"""What the page shows; data.json has all."""
SIDE = 128


def write_files(folder: Path, found: Found) -> tuple[Path, Path]:
    """Write `data.html` and `data.json` into a folder, made where it is missing, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    page, numbers = folder / "data.html", folder / "data.json"
    write_atomically(numbers, json.dumps(as_json(found.report), indent=1) + "\n")
    write_atomically(page, render_page(found))
    return page, numbers


def as_json(report: DataReport) -> dict[str, Any]:
    """The report, with what follows from it."""
    values = asdict(report)
    for group, made in zip(report.groups, values["groups"], strict=True):
        made |= {"leaks": group.leaks, "two_labels": group.two_labels}
    if report.near is not None:
        values["near"]["tells"] = report.near.tells
    more = {"two_labels": report.two_labels, "repeated": report.repeated, "summary": summary(report)}
    return {**values, **more, "leave_out": [{"name": picture.name, "part": picture.part, "why": why} for picture, why in left_out(report)]}


def render_page(found: Found) -> str:
    """The page as text. It loads nothing from anywhere, and runs one script, its own."""

    @cache
    def url(picture: Picture) -> str:
        return data_url(found.image(picture.part, picture.name), SIDE)

    report = found.report
    template = page_templates().get_template("data.html.jinja")
    return template.render(
        report=report,
        summary=summary(report),
        kinds=[(title, note, groups[:GROUPS], len(groups)) for title, note, groups in _kinds(report) if groups],
        of_each=OF_EACH,
        suspects=report.suspects[:SUSPECTS],
        alike=report.alike[:ALIKE],
        leave=left_out(report),
        url=url,
        with_nats=any(session.nats is not None for session in report.sessions),
    )


def _kinds(report: DataReport) -> list[tuple[str, str, list[Group]]]:
    """Title, note and groups of each section; a group stands in the first one that it belongs in."""
    leaks = [group for group in report.groups if group.leaks]
    labels = [group for group in report.groups if not group.leaks and group.two_labels]
    rest = [group for group in report.groups if not group.leaks and not group.two_labels]
    return [
        ("Tested on and trained on", "The accuracy on these test pictures says nothing of new ones.", leaks),
        (
            "Under several labels",
            "Equal pictures: at most one label is right. Nearly equal ones: a wrong label, or two things that look alike.",
            labels,
        ),
        ("More than once", "A picture that stands several times counts several times, in training or in the tests.", rest),
    ]
