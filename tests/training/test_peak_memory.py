import psutil
import pytest
import torch

from hf_cl.training.peak_memory import memory_kind, take_peak_bytes

CPU = torch.device("cpu")


def test_the_process_has_a_peak_that_does_not_fall():
    peak = take_peak_bytes(CPU)
    assert peak >= 0.99 * psutil.Process().memory_info().rss  # bytes, and not the system's KiB
    assert take_peak_bytes(CPU) >= peak
    assert memory_kind(CPU) == "process"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_counts_anew():
    device = torch.device("cuda", torch.cuda.current_device())
    take_peak_bytes(device)
    block = torch.ones(10_000_000, device=device)
    assert take_peak_bytes(device) >= 40_000_000
    del block
    take_peak_bytes(device)
    assert take_peak_bytes(device) < 40_000_000
    assert memory_kind(device) == "cuda"
