"""Learning-rate schedules: pure functions (epoch of the session, step of the epoch) -> one rate per parameter group."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hf_cl.contracts import Schedule


def constant(*rates: float) -> Schedule:
    """The same rates throughout."""
    return lambda epoch, step: rates


def cosine(rates: Sequence[float], epochs: int) -> Schedule:
    """Per epoch, from the rates to nearly 0: rate * (1 + cos(pi e / K)) / 2 with K epochs."""
    return lambda epoch, step: [rate * (1 + math.cos(math.pi * epoch / epochs)) / 2 for rate in rates]


def cosine_to(rates: Sequence[float], epochs: int, share: float) -> Schedule:
    """Per epoch, as `cosine`, to nearly `share` of the rates: rate * (share + (1 - share) (1 + cos(pi e / K)) / 2)."""
    return lambda epoch, step: [rate * (share + (1 - share) * (1 + math.cos(math.pi * epoch / epochs)) / 2) for rate in rates]


def warmed(rate: float, warmup: int, epochs: int, steps_per_epoch: int) -> Schedule:
    """Per step: a line up to the rate over `warmup` epochs, then a cosine from it to nearly 0 over the others."""
    first, total = warmup * steps_per_epoch, epochs * steps_per_epoch

    def schedule(epoch: int, step: int) -> list[float]:
        done = epoch * steps_per_epoch + step
        if done < first:
            return [rate * (done + 1) / (first + 1)]
        return [rate * (1 + math.cos(math.pi * (done - first) / max(total - first, 1))) / 2]

    return schedule


def stepped(rates: Sequence[float], at: int, share: float) -> Schedule:
    """The rates, and from epoch `at` on `share` of them."""
    return lambda epoch, step: [rate * (share if epoch >= at else 1.0) for rate in rates]


def cosine_per_step(rate: float, floor: float, epochs: int, steps_per_epoch: int) -> Schedule:
    """Per step, from the rate to nearly the floor: floor + (rate - floor) * (1 + cos(pi t / T)) / 2 with T = all steps of the session."""
    total = epochs * steps_per_epoch
    return lambda epoch, step: [floor + (rate - floor) * (1 + math.cos(math.pi * (epoch * steps_per_epoch + step) / total)) / 2]


def lagging_cosine(rate: float, epochs: int) -> Schedule:
    """OVOR's schedule as its code runs it: rate * cos(99 pi max(0, e - 1) / (200 (K - 1))).

    The nominal cosine lags by one epoch, so epochs 0 and 1 run at the full rate and the last one well above 0. K = 1 is constant.
    """

    def schedule(epoch: int, step: int) -> list[float]:
        if epochs == 1:
            return [rate]
        return [rate * math.cos(99 * math.pi * max(0, epoch - 1) / (200 * (epochs - 1)))]

    return schedule
