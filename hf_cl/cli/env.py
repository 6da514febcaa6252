"""`hf-cl env`: what this machine has, for a bug report or a first look."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hf_cl.cli.app import LOOK, AsJson, app, print_json

LIBRARIES = ("hf-cl", "torch", "torchvision", "transformers", "peft", "accelerate", "datasets", "huggingface-hub", "safetensors", "kornia")
EXTRAS = {
    "open-clip-torch": ("open_clip backbones", "pip install open-clip-torch"),
    "timm": ("timm backbones", "pip install timm"),
    "gradio": ("the page of hf-cl app", "pip install gradio"),
    "tensorboard": ("--report_to tensorboard", "pip install tensorboard"),
    "wandb": ("--report_to wandb", "pip install wandb"),
    "trackio": ("--report_to trackio", "pip install trackio"),
}
"""Distribution -> what needs it, how to get it."""


@app.command(rich_help_panel=LOOK)
def env(as_json: AsJson = False) -> None:
    """Versions, devices, cache, token, and what is missing. Asks no network; the token itself is never shown."""
    found = facts()
    if as_json:
        print_json(found)
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console()
    for heading in ("versions", "devices", "cache", "token"):
        table = Table(box=None, show_header=False, pad_edge=False, title=heading, title_justify="left", title_style="bold")
        for key, value in found[heading].items():
            table.add_row(key, Text("–" if value is None else str(value), overflow="fold"))
        console.print(table)
        console.print()
    console.print(Text("missing", style="bold"))
    for sentence in found["missing"] or ["nothing"]:
        console.print(Text(sentence))


def facts() -> dict[str, Any]:
    """What `hf-cl env --json` prints."""
    versions = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    versions |= {name: _version(name) for name in (*LIBRARIES, *EXTRAS)}
    devices, token = _devices(), _token()
    return {"versions": versions, "devices": devices, "cache": _cache(), "token": token, "missing": _missing(versions, devices, token)}


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _devices() -> dict[str, Any]:
    import torch  # noqa: PLC0415

    found: dict[str, Any] = {"cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads for torch"}
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        found[f"cuda:{number}"] = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found


def _cache() -> dict[str, Any]:
    from huggingface_hub import constants  # noqa: PLC0415

    hub = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (hub, *hub.parents) if folder.exists())
    repositories = sum(1 for path in hub.iterdir() if "--" in path.name) if hub.is_dir() else 0
    offline = "yes" if constants.HF_HUB_OFFLINE else "no"
    return {"folder": str(hub), "repositories": repositories, "free": f"{shutil.disk_usage(there).free / 1e9:.0f} GB", "offline": offline}


def _token() -> dict[str, str | None]:
    from huggingface_hub import constants, get_token  # noqa: PLC0415

    return {"token": "found" if get_token() else None, "endpoint": constants.ENDPOINT}


def _missing(versions: dict[str, str | None], devices: dict[str, Any], token: dict[str, str | None]) -> list[str]:
    sentences = [f"{name} is not installed: {what} needs it ({how})." for name, (what, how) in EXTRAS.items() if versions[name] is None]
    if len(devices) == 1:
        sentences.append("No GPU that torch can use: everything runs on the CPU.")
    if token["token"] is None:
        sentences.append("No token of the Hub: public models and data sets load without; hf-cl push and gated ones need `hf auth login`.")
    return sentences
