"""Pictures through a model as they come: decoded and prepared by threads, a few batches ahead, so that memory stays flat.

Shapes: B batch, C classes, S image side.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AutoImageProcessor

from hf_cl.errors import UnreadableImageError
from hf_cl.hub.inputs import Input, inputs_of, is_one
from hf_cl.memory.novelty import NoveltyScore

ONNX_FILE = "model.onnx"
_AHEAD = 3
"""Batches that are prepared while one goes through the model."""


@dataclass(frozen=True)
class Prediction:
    """A class name and its softmax probability."""

    name: str
    score: float


@dataclass(frozen=True)
class Row:
    """What was found in one picture, or why it could not be read."""

    name: str
    """Its file, or its place among the others."""
    predictions: list[Prediction]
    """Best first; empty where it could not be read."""
    error: str | None = None
    unknown: bool | None = None
    """Whether it looks like none of the classes; None where nobody asked."""


class Predictor:
    """Names for pictures. A subclass has `class_names`, `processor` and `logits_of`."""

    class_names: list[str]
    processor: Any
    novelty: NoveltyScore | None = None
    """What says that a picture looks like none of the classes, where that lies beside the adapter."""

    def logits_of(self, pixels: Tensor) -> Tensor:
        """[B, 3, S, S] float32 as the processor makes them -> [B, C] float32."""
        raise NotImplementedError

    def probabilities(self, logits: Tensor) -> Tensor:
        """[B, C] -> [B, C]; the softmax, unless the head says otherwise."""
        return logits.softmax(-1)

    def judged(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """[B, 3, S, S] -> logits [B, C], and how unlike the classes [B], where a novelty score lies beside the adapter."""
        return self.logits_of(pixels), None

    def rows(self, images: Any, top_k: int = 5, batch_size: int = 32, num_workers: int = 4, *, unknown: bool = False) -> Iterator[Row]:
        """A row for each picture, in order, as they come; one that cannot be read is a row with its reason.

        Args:
            images: a file, a folder (with all below it), a pattern such as `photos/*.jpg`, a PIL image, an array (uint8 [H, W, channels]),
                a tensor ([channels, H, W], uint8 or 0..1), the bytes of a file, or an iterable of these.
            top_k: classes per picture; all where there are fewer.
            batch_size: pictures per forward.
            num_workers: threads that decode and prepare.
            unknown: say of each whether it looks like none of the classes, by the novelty score beside the adapter.

        Raises ValueError for `unknown` without such a score, for a `top_k`, `batch_size` or `num_workers` below 1, and for what is no
        picture at all.
        """
        if min(top_k, batch_size, num_workers) < 1:
            raise ValueError(f"top_k and batch_size must be at least 1, got {top_k} and {batch_size}; so must num_workers ({num_workers}).")
        if unknown and self.novelty is None:
            raise ValueError(
                "Nothing here says what is unknown: no novelty score lies beside the adapter. A run writes one with the probe novelty, "
                "--probes '{novelty: {}}'; ensembles and exported models have none."
            )
        with ThreadPoolExecutor(num_workers) as pool:
            inputs, waiting = inputs_of(images), deque[list[Future[tuple[Input, Tensor | None, str | None]]]]()
            while True:
                while len(waiting) < _AHEAD and (batch := list(islice(inputs, batch_size))):
                    waiting.append([pool.submit(self._prepared, picture) for picture in batch])
                if not waiting:
                    return
                yield from self._named([future.result() for future in waiting.popleft()], min(top_k, len(self.class_names)), unknown)

    def predict(self, images: Any, top_k: int = 5, batch_size: int = 32, num_workers: int = 4) -> list[list[Prediction]]:
        """The `top_k` most probable classes of each picture, best first; arguments as for `rows`.

        Raises ValueError, naming the file, for one that cannot be read; `rows` goes on past it.
        """
        found = []
        for row in self.rows(images, top_k, batch_size, num_workers):
            if row.error is not None:
                raise ValueError(row.error)
            found.append(row.predictions)
        return found

    def __call__(self, images: Any, top_k: int = 5) -> Any:
        """Predictions of one picture, `classifier("x.jpg")`, or a list of them for several."""
        found = self.predict(images, top_k)
        return found[0] if is_one(images) else found

    def _prepared(self, picture: Input) -> tuple[Input, Tensor | None, str | None]:
        try:
            return picture, self.processor(images=[picture.open()], return_tensors="pt")["pixel_values"][0], None  # [3, S, S]
        except UnreadableImageError as error:
            return picture, None, str(error)

    @torch.no_grad()
    def _named(self, batch: Sequence[tuple[Input, Tensor | None, str | None]], top_k: int, unknown: bool) -> Iterator[Row]:
        readable = [pixels for _, pixels, _ in batch if pixels is not None]
        found: Iterable[list[Prediction]] = ()
        strange: list[bool | None] = [None] * len(readable)
        if readable:
            pixels = torch.stack(readable)
            logits, novelty = self.judged(pixels) if unknown else (self.logits_of(pixels), None)
            if novelty is not None and self.novelty is not None:
                strange = (novelty > self.novelty.threshold).tolist()
            scores, classes = self.probabilities(logits).topk(top_k)  # [B, top_k]
            found = [
                [Prediction(self.class_names[c], s) for c, s in zip(row_classes, row_scores, strict=True)]
                for row_scores, row_classes in zip(scores.tolist(), classes.tolist(), strict=True)
            ]
        remaining = iter(zip(found, strange, strict=True))
        for picture, pixels, error in batch:
            predictions, is_strange = ([], None) if pixels is None else next(remaining)
            yield Row(picture.name, predictions, error, is_strange)


class Session(Protocol):
    """The part of onnxruntime's session that is used."""

    def run(self, output_names: Sequence[str] | None, input_feed: dict[str, Any], /) -> Sequence[Any]: ...


class OnnxClassifier(Predictor):
    """A folder that `hf-cl export --form onnx` wrote, run by onnxruntime on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
        names = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
        self.class_names = [names[str(number)] for number in range(len(names))]
        self._session = _session(folder / ONNX_FILE)

    def logits_of(self, pixels: Tensor) -> Tensor:
        (logits,) = self._session.run(None, {"pixel_values": pixels.float().numpy()})
        return torch.from_numpy(logits)  # [B, C]


def is_exported(folder: str | Path) -> bool:
    """Whether this is a folder with an exported ONNX model."""
    return (Path(folder) / ONNX_FILE).is_file()


def _session(file: Path) -> Session:
    try:
        import onnxruntime  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise ValueError("A model in ONNX needs the extra: pip install '.[onnx]' in the clone of hf_cl.") from error
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
