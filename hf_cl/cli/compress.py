"""`hf-cl compress`: a smaller base to put adapters on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_cl.cli.app import SHARE, app, mistakes_in_a_line


@app.command(rich_help_panel=SHARE)
def compress(
    base: Annotated[str, typer.Argument(help="Hub id or folder of an image classifier, demo, or the folder of a run of pela")],
    output_dir: Annotated[Path, typer.Option("--output_dir", "--output-dir", help="a new folder, for --backbone")],
    ratio: Annotated[
        float | None, typer.Option(help="each Linear of attention and MLP is left 1/ratio of its entries; 2 by default", show_default=False)
    ] = None,
    revision: Annotated[str | None, typer.Option(help="revision of the base; of a run, the session")] = None,
) -> None:
    """Write a base whose Linears are products of two thin ones (PELA); any method then trains on it with --backbone."""
    from hf_cl.backbones import load_backbone, load_processor  # noqa: PLC0415
    from hf_cl.backbones.low_rank import compress as compressed  # noqa: PLC0415
    from hf_cl.backbones.low_rank import save_low_rank  # noqa: PLC0415
    from hf_cl.hub.compressed import compressed_base, is_adapter  # noqa: PLC0415
    from hf_cl.run import quiet_libraries  # noqa: PLC0415

    quiet_libraries()
    with mistakes_in_a_line():
        if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
            raise ValueError(f"{output_dir} holds something already; choose a new folder.")
        if is_adapter(base):
            if ratio is not None:
                raise ValueError(f"{base} has factors of its own ratio, which training has settled; leave --ratio out.")
            large, small, processor = compressed_base(base, revision=revision)
        else:
            large, processor = load_backbone(base, revision=revision), load_processor(base, revision=revision)
            small = compressed(large, 2.0 if ratio is None else ratio, source=base, revision=revision)
        save_low_rank(small, output_dir)
        processor.save_pretrained(output_dir)
    before, after = (sum(p.numel() for p in model.parameters()) for model in (large, small))
    typer.echo(f"{output_dir}: {after:,} of {before:,} parameters ({after / before:.0%}). Train on it with --backbone {output_dir}")
