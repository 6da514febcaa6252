"""What every test starts from."""

import gc
import os
import shutil
import tempfile

import pytest
import torch
from filelock import FileLock

os.environ["HF_CL_CACHE"] = tempfile.mkdtemp(prefix="hf_cl-tests-")  # of child processes, too

os.fsync = lambda descriptor: None  # nothing here looks at a disk after the power went, and each would wait for one

torch.set_num_threads(1)
# One thread per process: the suite runs in several, and results that must be equal to the bit must not depend on how sums are split.


gc.disable()  # while modules are imported and tests collected: nothing of that is ever let go


def pytest_collection_finish():
    """What lies in memory by now stays: the garbage collector looks at what tests make, and no longer through all of torch each time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """`once(name, make)`: the folder `name` that `make(folder)` has filled, once for all workers of pytest-xdist; nobody changes it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def once(name, make):
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # what a worker left that failed
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return once
