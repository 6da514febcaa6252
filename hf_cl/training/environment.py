"""What a run ran on, for results.json."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import torch

from hf_cl.results.result_records import Environment

LIBRARIES = {"hf_cl": "hf-cl", "transformers": "transformers", "peft": "peft", "accelerate": "accelerate"}
"""Key of `environment` -> name of the distribution."""


def environment(accelerator: Any, backbone: str, backbone_revision: str | None = None) -> Environment:
    """Versions, devices, processes, precision and backbone. No host names, no user names, no paths of the machine.

    Args:
        accelerator: the run's `RunAccelerator`.
        backbone: Hub id or name of the base, as the user gave it.
        backbone_revision: its Hub revision.
    """
    return {
        **{key: version(distribution) for key, distribution in LIBRARIES.items()},
        "torch": str(torch.__version__),  # with its build, such as +cu130
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "devices": _devices(accelerator.device),
        "num_processes": accelerator.num_processes,
        "mixed_precision": accelerator.mixed_precision,
        "compile": accelerator.compiled_by,
        "deterministic": accelerator.deterministic,
        "backbone": backbone,
        "backbone_revision": backbone_revision,
    }


def _devices(device: torch.device) -> list[str]:
    """Names of this process's device; the other processes of a run have the like."""
    if device.type == "cuda":
        return [torch.cuda.get_device_name(device)]
    if device.type == "cpu":
        return [f"CPU, {os.cpu_count()} cores"]
    return [device.type]
