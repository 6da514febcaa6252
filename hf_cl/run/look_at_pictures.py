"""The look at all pictures before training: by one process of each machine, with a bar, into the store of pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hf_cl.images import Host, PixelStore
from hf_cl.scenarios import ImageSet, UnreadableImage, check_pictures
from hf_cl.scenarios.picture_check import Look, Seen

PictureCheck = Callable[[ImageSet], Sequence[UnreadableImage]]


def picture_check(look: Look, store: PixelStore | None = None, *, quiet: bool = True, seen: Seen | None = None) -> PictureCheck:
    """What `open_images` takes as `check`. The store's machine looks once, and its other processes hear what was found.

    `seen` is shown every picture that is decoded, and then the store is given it.
    """
    host, quiet = store.host if store else Host(), quiet or os.environ.get("RANK", "0") != "0"

    def decoded(source: Any, row: int, picture: Image.Image) -> None:
        if seen is not None:
            seen(source, row, picture)
        if store is not None:
            store.put(source, row, picture)

    def check(images: ImageSet) -> list[UnreadableImage]:
        if store is not None:
            store.know(images.store)

        def look_once() -> list[dict[str, object]]:
            with ExitStack() as bar:
                progress = None if quiet else _bar(bar)
                found = check_pictures(images, look=look, seen=decoded, progress=progress)
            if store is not None:
                store.publish()
            return [asdict(bad) for bad in found]

        return [UnreadableImage(**bad) for bad in host.once(look_once)]

    return check


def _bar(open_until: ExitStack) -> Callable[[int, int], None]:
    """A bar that appears where looking takes more than a moment, and goes when it is done."""
    columns = TextColumn("Looking at images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    tasks: list = []

    def show(done: int, total: int) -> None:
        if not tasks and done < total:
            open_until.enter_context(progress)
            tasks.append(progress.add_task("", total=total))
        if tasks:
            progress.update(tasks[0], completed=done)

    return show
