"""A step of Mamba-FSCIL's projector: its scan in the chunked form, which a GPU takes, against the loop over places, which a CPU takes."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.measure import Call, FlopCounter, Options, Row, paired
from hf_cl.heads.selective_scan import ScanForm, SelectiveScanProjector

WIDTH, GRID, BATCH = 192, 7, 16


def rows(options: Options) -> Iterator[Row]:
    """With both branches, on maps of ViT-Ti's width."""
    chunked, loop = (step(form, options) for form in ("chunked", "loop"))
    detail = f"{calls(chunked)} against {calls(loop)} operations, batch {BATCH}"
    pair = paired(chunked, loop, options)
    yield pair.row("scan", f"Mamba-FSCIL's projector, {GRID} x {GRID} places, scan in chunks", "a loop over places", detail=detail)


def step(form: ScanForm, options: Options) -> Call:
    """Forward and backward."""
    torch.manual_seed(0)
    projector = SelectiveScanProjector(WIDTH, WIDTH, GRID, d_state=8, form=form).to(options.device)
    maps = torch.randn(BATCH, GRID, GRID, WIDTH, generator=torch.Generator().manual_seed(0)).to(options.device)
    return lambda: projector(maps).square().sum().backward()


def calls(step: Call) -> int:
    """Of PyTorch's operations."""
    with FlopCounter() as counter:
        step()
    return counter.calls
