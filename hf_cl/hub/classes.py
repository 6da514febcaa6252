"""Classes of a trained adapter renamed, merged and dropped, without training: another adapter.

Shapes: C classes, D feature width.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData
from peft import PeftConfig
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hf_cl.adapters.files import check_folder
from hf_cl.adapters.pseudo_words import PLACE
from hf_cl.checkpoints.statistics_files import STATISTICS_FILE
from hf_cl.heads import build_head
from hf_cl.hints import nearest
from hf_cl.hub.fetch import adapter_folder
from hf_cl.hub.markdown import escape
from hf_cl.hub.merged_head import merged_head
from hf_cl.memory.novelty import NOVELTY_FILE
from hf_cl.results.atomic_write import write_atomically
from hf_cl.results.picture_record import read_pictures

MERGED_BY_MEAN = ("linear", "session_linear", "cosine", "prototype")
"""Heads with a vector per class, whose mean stands for the merged class."""
_HEAD = "base_model.model."
_WORDS, _IMAGES = f"{_HEAD}{PLACE}.vectors", f"{_HEAD}{PLACE}.images"


@dataclass(frozen=True)
class NewClass:
    """A class of the new adapter."""

    name: str
    parts: tuple[int, ...]
    """Positions of the classes that it was, in the old adapter."""


def new_classes(
    class_names: Sequence[str], *, rename: Mapping[str, str], merge: Mapping[str, Sequence[str]], drop: Sequence[str]
) -> list[NewClass]:
    """What becomes of the classes, in their order; a merged one stands where the first of its parts stood.

    Args:
        class_names: of the adapter.
        rename: old name -> new name.
        merge: new name -> the classes that it joins; it may be one of them.
        drop: names that go.

    Raises ValueError, all at once, for names that are no class, a class that is named twice, two classes of one name, and where no class
    is left or nothing changes.
    """
    named = [*rename, *(part for parts in merge.values() for part in parts), *drop]
    faults = [f"{name!r} is no class of the adapter.{nearest(name, class_names)}" for name in named if name not in class_names]
    faults += [f"{name!r} is named {count} times." for name, count in Counter(named).items() if count > 1]
    faults += [f"{name!r} joins {len(parts)} class; merging takes two or more." for name, parts in merge.items() if len(parts) < 2]
    joined = {part: name for name, parts in merge.items() for part in parts}
    found: dict[str, list[int]] = {}
    twice: list[str] = []
    for position, old in enumerate(class_names):
        if old in drop:
            continue
        name = joined.get(old, rename.get(old, old))
        if name in found and not (old in joined and joined.get(class_names[found[name][0]]) == name):
            twice.append(name)
        found.setdefault(name, []).append(position)
    faults += [f"Two classes would be called {name!r}; --merge makes one of them." for name in dict.fromkeys(twice)]
    faults += ["A class needs a name."] if "" in found else []
    if not faults and (not found or [*found] == [*class_names]):
        faults = ["No class would be left." if not found else "Nothing changes: name classes to rename, merge or drop."]
    if faults:
        raise ValueError(" ".join(faults))
    return [NewClass(name, tuple(parts)) for name, parts in found.items()]


def change_classes(
    adapter: str | Path,
    output_dir: str | Path,
    *,
    rename: Mapping[str, str] | None = None,
    merge: Mapping[str, Sequence[str]] | None = None,
    drop: Sequence[str] = (),
    revision: str | None = None,
) -> list[NewClass]:
    """Write the adapter with other classes into a new folder, with a card that says what was done. Nothing is trained, no base is loaded.

    Rows of classes that stay are the same to the bit. The vector of a merged class is the mean of those of its parts, weighted by the
    pictures they were trained on where the run's record is there: for prototypes that is the mean of all their pictures. Under a text head
    the names are the classes; one that has learned words keeps them whatever it is called, and a merged one goes by its name. A fitted
    head is fitted anew to the merged statistics of its classes (`merged_head`). Sessions stay as many as they were, with the classes that
    are left of each.

    Raises ValueError as `new_classes`, for a folder that exists, for what is no adapter of hf_cl, for merging under a head that has
    more of a class than a vector where what it was fitted to is not beside the adapter, or was images, and for classes of different
    sessions where the adapter has features for each.
    """
    folder, target = adapter_folder(adapter, revision), Path(output_dir)
    if target.exists():
        raise ValueError(f"{target} exists; choose a new --output_dir.")
    check_folder(folder)
    config: dict[str, Any] = json.loads((folder / CONFIG_NAME).read_text())
    names: list[str] = config.get("class_names") or []
    if not names:
        raise ValueError(f"{adapter} is no adapter with class names.")
    classes = new_classes(names, rename=rename or {}, merge=merge or {}, drop=drop)
    kind = (config.get("head") or {"type": "linear"})["type"]
    counts = _pictures(folder, names)
    tensors = load_file(folder / SAFETENSORS_WEIGHTS_NAME)
    fitted = kind not in (*MERGED_BY_MEAN, "text") and any(len(new.parts) > 1 for new in classes)
    if kind != "text" and len(classes) < len(names):
        prefix, width, axes = _head_of(tensors, config, len(names))
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if fitted:
            own = merged_head(folder, config["head"], width, own, axes, [new.parts for new in classes])
        else:
            own |= {name: _of_classes(own[name], axis, classes, counts) for name, axis in axes.items()}
        tensors |= {prefix + name: tensor for name, tensor in own.items()}
    adapter_config: Any = PeftConfig.from_pretrained(str(folder))
    tensors |= adapter_config.of_classes(tensors, [new.parts for new in classes])
    if _WORDS in tensors:
        tensors[_WORDS] = _words_of(tensors[_WORDS], classes)
    if _IMAGES in tensors:
        tensors[_IMAGES] = _of_classes(tensors[_IMAGES], 0, classes, counts)
    _write(folder, target, config | {"class_names": [new.name for new in classes], "classes_per_session": _sizes(config, classes)}, tensors)
    write_atomically(target / "README.md", _card(str(adapter), config, names, classes, weighted=counts is not None, fitted=fitted))
    return classes


def _pictures(folder: Path, names: Sequence[str]) -> list[int] | None:
    """Training pictures of each class, where the adapter lies in a run that has a record of all of them."""
    found = Counter(picture.class_name for picture in read_pictures(folder.parent.parent) if picture.part == "train")
    return [found[name] for name in names] if all(found[name] for name in names) else None


def _head_of(tensors: Mapping[str, Tensor], config: Mapping[str, Any], count: int) -> tuple[str, int, dict[str, int]]:
    """What its tensors' names begin with, the width of its input, and of each tensor that has one the dimension that counts classes: it
    differs between heads of `count` and of fewer classes."""
    for path in config["modules_to_save"] or ():
        prefix = f"{_HEAD}{path}."
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        for width in _widths(own.values()):
            heads: list[nn.Module] = [build_head(config["head"], width, classes) for classes in (count, count - 1)]
            many, few = (head.state_dict() for head in heads)
            if many.keys() == own.keys() and all(many[key].shape == own[key].shape for key in own):
                differ = {key: [a for a, n in enumerate(many[key].shape) if n != few[key].shape[a]] for key in many}
                return prefix, width, {key: where[0] for key, where in differ.items() if where}
    raise ValueError("The adapter's file has no head of the kind that its config names.")


def _widths(tensors: Any) -> list[int]:
    """What the head's input may be wide: the sizes that occur."""
    return sorted({size for tensor in tensors for size in tensor.shape}, reverse=True)


def _of_classes(tensor: Tensor, axis: int, classes: Sequence[NewClass], counts: Sequence[int] | None) -> Tensor:
    """Those of the new classes, along `axis`; a merged one is the weighted mean of its parts, and has the session of the first."""
    rows = tensor.movedim(axis, 0)  # [C, ...]
    new = []
    for made in classes:
        if len(made.parts) == 1 or not rows.is_floating_point():
            new.append(rows[made.parts[0]])
            continue
        weights = torch.tensor([1 if counts is None else counts[part] for part in made.parts], dtype=torch.float64)
        parts = rows[list(made.parts)].double()  # [parts, ...]
        new.append(torch.tensordot(weights / weights.sum(), parts, 1).to(tensor.dtype))
    return torch.stack(new).movedim(0, axis).contiguous()


def _words_of(vectors: Tensor, classes: Sequence[NewClass]) -> Tensor:
    """[C, W, D] learned words of the new classes; NaN for what was merged."""
    merged = torch.full_like(vectors[0], torch.nan)
    return torch.stack([vectors[made.parts[0]] if len(made.parts) == 1 else merged for made in classes])


def _sizes(config: Mapping[str, Any], classes: Sequence[NewClass]) -> list[int]:
    """Classes that are left of each session: adapters may hold something per session, so none goes."""
    sizes = config["classes_per_session"] or [len(config["class_names"])]
    session_of = [session for session, size in enumerate(sizes) for _ in range(size)]
    left = Counter(session_of[new.parts[0]] for new in classes)
    return [left[session] for session in range(len(sizes))]


def _write(folder: Path, target: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """The folder is whole or absent."""
    aside = target.with_name(f".writing-{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(
        folder, aside, ignore=shutil.ignore_patterns("README.md", SAFETENSORS_WEIGHTS_NAME, CONFIG_NAME, STATISTICS_FILE, NOVELTY_FILE)
    )
    save_file(dict(tensors), aside / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    (aside / CONFIG_NAME).write_text(json.dumps(config, indent=2, ensure_ascii=False))
    aside.rename(target)


def _card(
    adapter: str, config: Mapping[str, Any], names: Sequence[str], classes: Sequence[NewClass], *, weighted: bool, fitted: bool
) -> str:
    base = config.get("base_model_name_or_path")
    data = ModelCardData(library_name="peft", base_model=base, tags=["hf_cl", "image-classification"])
    kept = {part for new in classes for part in new.parts}
    lines = [f"- {escape(names[new.parts[0]])} is called {escape(new.name)}" for new in classes if _is_renamed(new, names)]
    lines += [f"- {escape(', '.join(names[p] for p in new.parts))}: merged as {escape(new.name)}" for new in classes if len(new.parts) > 1]
    lines += [f"- {escape(name)}: dropped" for position, name in enumerate(names) if position not in kept]
    how = "weighted by the pictures they were trained on" if weighted else "each class counting the same"
    merging = any(len(new.parts) > 1 for new in classes)
    merged = f" The vector of a merged class is the mean of those of its parts, {how}." if merging and not fitted else ""
    merged = " The head was fitted anew to the merged statistics of its classes." if fitted else merged
    text = f"""# {len(classes)} classes made of {len(names)}

Made by `hf-cl classes` from the adapter {escape(adapter)}, without training.{merged}
Nothing has been measured since; `hf-cl evaluate` does.

{chr(10).join(lines)}

Classes: {escape(", ".join(new.name for new in classes), 10_000)}.
"""
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}", ignore_metadata_errors=True))


def _is_renamed(new: NewClass, names: Sequence[str]) -> bool:
    return len(new.parts) == 1 and names[new.parts[0]] != new.name
