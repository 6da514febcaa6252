"""Scripts of the tests in processes of their own, alone or in a group that talks over gloo.

They are forked from a server that has imported what they need and made nothing of it, so that a start takes milliseconds instead of
seconds, and they import the checkout that the tests import, whatever is installed. None of them asks a Hub. Where a launcher is what a test
is about, `torchrun` starts a real one; where it is what an import brings along, `interpreter` starts a Python that begins from nothing.
"""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore

import hf_cl

TESTS = Path(__file__).parent
PATHS = [Path(hf_cl.__file__).parents[1], TESTS, TESTS / "training"]
OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")
GRACE = 60.0
"""Seconds in which the others of a group have to end after one has failed."""


@dataclass
class Done:
    """What became of a script."""

    statuses: list[int]
    """Exit status of each process by rank; negative: the signal that ended it."""
    output: str
    """What all of them printed, errors too."""

    @property
    def status(self) -> int:
        """The first that is not 0."""
        return next((status for status in self.statuses if status), 0)


def environment(**more: str) -> dict[str, str]:
    """This process's variables without those of a launcher, with one thread and with this checkout in front."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OF_LAUNCHERS)}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, PATHS)), **more}


@cache
def server() -> Any:
    """A context of `multiprocessing` whose processes begin with everything imported."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["five_runs", "loop_case"])
    before = dict(os.environ)
    os.environ.update(environment(HF_HUB_OFFLINE="1"))  # a library reads it once
    try:
        forkserver.ensure_running()  # the server imports what is found with these variables
        first = context.Process(target=int)
        first.start()
        first.join()  # by now it has: whoever takes the time of the next process takes its own
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def run(script: Path, *arguments: object, processes: int = 1, ends: bool = False, timeout: float = 300, **variables: str) -> Done:
    """`script` as if started with these arguments and variables, by one process or by each of a group on this machine.

    With `ends`, Python ends as it does after a script: its threads, its exit hooks, its modules. Without, a process is gone at once when
    the script is through, and no thread of gloo's can spoil its exit status (`leave_group` of hf_cl tells how one could).
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if processes > 1 else None  # at a port that is free
    with tempfile.NamedTemporaryFile(suffix=".txt") as said:
        started = []
        for rank in range(processes):
            place = {} if store is None else _place(store, rank, processes)
            values = ([str(script), *map(str, arguments)], environment(**place, **variables), said.name, ends)
            started.append(server().Process(target=_main, args=values))
            started[-1].start()
        _wait_for(started, timeout)
        return Done([process.exitcode for process in started], Path(said.name).read_text(errors="replace"))


def result_of_two(script: Path, folder: Path) -> Any:
    """What `script`, on two processes, wrote as JSON into the file of `folder` whose path it was given."""
    file = folder / "result.json"
    done = run(script, file, processes=2, ACCELERATE_USE_CPU="true")
    assert done.status == 0, done.output[-4000:]
    return json.loads(file.read_text())


def torchrun(script: Path, *arguments: object, processes: int = 2) -> Done:
    """`script` under torch's launcher, in processes that begin from nothing; the status is the launcher's."""
    return interpreter("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes, script, *arguments)


def interpreter(*arguments: object) -> Done:
    """What a Python that begins from nothing does with these arguments."""
    command = [sys.executable, *map(str, arguments)]
    variables = environment(HF_HUB_OFFLINE="1")
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables, timeout=300, check=False)
    return Done([done.returncode], done.stdout)


def _place(store: TCPStore, rank: int, processes: int) -> dict[str, str]:
    """What a launcher would tell the process: here, too, the meeting place is the launcher's own."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


def _wait_for(started: list[Any], timeout: float) -> None:
    """Until all have ended; whoever has not when the time is over, or `GRACE` after another one has failed, is killed."""
    until = time.monotonic() + timeout
    running = list(started)
    while running and time.monotonic() < until:
        wait([process.sentinel for process in running], until - time.monotonic())
        ended = [process for process in running if process.exitcode is not None]
        running = [process for process in running if process not in ended]
        if any(process.exitcode for process in ended):
            until = min(until, time.monotonic() + GRACE)
    for process in running:
        process.kill()
        process.join()


def _main(line: list[str], variables: dict[str, str], said: str, ends: bool) -> None:
    """In the new process."""
    gc.freeze()  # what the server has imported
    # torch renews its pool of threads at the first use after a fork, and not safely where two threads come at once, as when weights load
    torch.set_num_threads(1)
    os.environ.clear()
    os.environ.update(variables)
    output = os.open(said, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = line
    sys.path.insert(0, str(Path(line[0]).parent))
    status = 0
    try:
        runpy.run_path(line[0], run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:  # the process's own boundary, as the interpreter's
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if ends:
        ctypes.pythonapi.Py_Exit(status)
    os._exit(status)
