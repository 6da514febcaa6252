"""`<data set>.txt` with a class and an image per line: the candidates that few-shot tuning takes its shots from."""

from __future__ import annotations

import os

import numpy as np

from hf_cl.errors import DataError, first_ten
from hf_cl.hints import nearest
from hf_cl.scenarios.draws import check_shots
from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.index_list import ImageFinder, Line, OnceOnly, digest, list_folder, read_list
from hf_cl.scenarios.sources import ImageSource


def read_shot_list(source: ImageSource, index_list: str | os.PathLike[str], shots: int) -> tuple[ImageSet, dict[str, str]]:
    """The first `shots` images that `<data set>.txt` lists of each class, class by class in label order, and the list's identity.

    A line is `<class> <image>`: a label or a class name, then a row of the training split or a file name.

    Raises DataError, with file and line: no such class or image, an image of another class or listed twice, too few images of a class.
    """
    check_shots(shots)
    file = list_folder(index_list, source.short_name, f"{source.short_name}.txt") / f"{source.short_name}.txt"
    lines = read_list(file)
    finder, once = ImageFinder(source.train, "training images"), OnceOnly()
    candidates: list[list[int]] = [[] for _ in source.class_names]
    for line in lines:
        fields = line.text.rsplit(maxsplit=1)
        if len(fields) != 2:
            raise DataError(f"{line}: expected a class and an image, found {line.text!r}.")
        label, position = _label(line, fields[0], source.class_names), finder.find(line, fields[1])
        if (actual := int(source.train.labels[position])) != label:
            raise DataError(f"{line}: image {fields[1]} is of class {source.class_names[actual]!r} (label {actual}), not {fields[0]!r}.")
        once.add(position, line)
        candidates[label].append(position)
    short = [f"{name!r} has {len(listed)}" for name, listed in zip(source.class_names, candidates, strict=True) if len(listed) < shots]
    if short:
        raise DataError(f"{file}: {len(short)} classes have fewer images than the {shots} shots asked for: {first_ten(short)}.")
    chosen = np.concatenate([listed[:shots] for listed in candidates])
    return source.train.subset(chosen), {"kind": "custom", "sha256": digest([lines])}


def _label(line: Line, text: str, class_names: tuple[str, ...]) -> int:
    if text.isdecimal() and len(text) <= 18:
        if int(text) < len(class_names):
            return int(text)
        raise DataError(f"{line}: there is no class {text}; labels are 0..{len(class_names) - 1}.")
    if text not in class_names:
        raise DataError(f"{line}: {text!r} is no class of the data set.{nearest(text, class_names)}")
    return class_names.index(text)
