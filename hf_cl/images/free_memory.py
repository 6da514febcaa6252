"""How much memory a process can still have."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

_CONTROL_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of a container, by the two versions of control groups."""


def free_memory() -> int:
    """Bytes that are free on this machine, less where its container or a limit of the process allows less."""
    free = [psutil.virtual_memory().available]
    for limit, used in _CONTROL_GROUPS:
        try:
            free.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such files, or no limit: "max"
            continue
    return max(0, min(free + _of_process()))


def _of_process() -> list[int]:
    if sys.platform != "linux":
        return []
    process, found = psutil.Process(), []
    used = process.memory_info()
    for kind, now in ((psutil.RLIMIT_AS, used.vms), (psutil.RLIMIT_DATA, used.data)):
        limit = process.rlimit(kind)[0]
        if limit >= 0:
            found.append(limit - now)
    return found
