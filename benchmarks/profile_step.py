"""Where the time of one training step goes: `python -m benchmarks.profile_step [ONE_PROMPT ...] [--size base] [--device cuda]`.

For each adapter the operations that take most of a step, by their own time, and how much of the step is spent outside of operations: in
Python, in hooks and wrappers, in the dispatcher.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings

import torch
from torch.profiler import profile

from benchmarks import steps
from benchmarks.measure import Options, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", nargs="*", default=list(steps.ADAPTERS), help=f"of {', '.join(steps.ADAPTERS)}")
    parser.add_argument("--size", default="tiny", choices=["tiny", "base"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    options = Options(torch.device(arguments.device), [arguments.size], 1)
    for name in arguments.adapters:
        _, call, _ = steps.ADAPTERS[name](arguments.size, options)
        for _ in range(2):
            call()
        plain = min(seconds(call, options.device) for _ in range(3))
        with profile() as trace:
            call()
        own = sorted(trace.key_averages(), key=lambda e: e.self_cpu_time_total, reverse=True)
        total = sum(event.self_cpu_time_total for event in own)
        sys.stdout.write(f"\n{name}: {1e3 * plain:.0f} ms a step\n")
        for event in own[:8]:
            sys.stdout.write(f"  {event.self_cpu_time_total / total:6.1%}  {event.count:5d} x  {event.key}\n")
        calls = sum(event.count for event in own if event.key.startswith("aten::"))
        sys.stdout.write(f"  {calls} operations in all\n")


if __name__ == "__main__":
    main()
