"""Sentences on what the probes `epochs` and `memorization` saw, for report and card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_cl.metrics.epoch_traces import ALL, memorisation_summary, validation_summary

KEYS = {
    "epochs": {"session", "epochs", "measured", "validation_loss", "validation_accuracy", *validation_summary([], [])},
    "memorization": {"session", "measured", "suspects", "suspect_accuracy", "other_accuracy", *memorisation_summary([], [])},
}
"""What each probe has of a session."""
NAMED = 5
"""Sessions that get a sentence each."""
RISE = 0.05
"""Of the validation loss, from its least: what counts as trained too long."""


def epoch_remarks(probes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a reader should know of the length of training; nothing where the probes were not there."""
    epochs = {one["session"]: one for one in sessions_of(probes, "epochs")}
    trained = {session: one for session, one in epochs.items() if one["best_epoch"] is not None}
    long = {session: one for session, one in trained.items() if _too_long(one)}
    sentences = [_trained_long(session, one) for session, one in list(long.items())[:NAMED]]
    if len(long) > NAMED:
        sentences.append(f"Other sessions that were trained longer than their validation images asked for: {len(long) - NAMED}.")
    if trained and not long:
        sentences.append("No session was trained too long: validation losses were lowest, or nearly, at the end.")
    for one in sessions_of(probes, "memorization"):
        if one["memorised"] is not None and one["memorised"] >= ALL and one["session"] in long and _late(one):
            sentences.append(
                f"Session {one['session']}: {one['suspects']} labels that looked wrong before training (on clean data: hard pictures) were "
                f"learned by heart: half of them not before epoch {one['memorised_from'] + 1}, when nine tenths of the others were learned "
                f"by epoch {one['others_learned'] + 1}. hf-cl data shows such labels."
            )
    return sentences


def sessions_of(probes: Mapping[str, Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """What a probe says of each session; nothing where it was not there, or another one of its name says other things."""
    sessions = probes.get(name, {}).get("sessions")
    known = [one for one in sessions if isinstance(one, Mapping)] if isinstance(sessions, list) else []
    return known if known and all(KEYS[name] <= one.keys() for one in known) else []


def _too_long(one: Mapping[str, Any]) -> bool:
    return one["epochs_wasted"] > 0 and one["accuracy_lost"] > 0 and (one["relative_degradation"] or 0) >= RISE


def _late(one: Mapping[str, Any]) -> bool:
    """Hard pictures are learned beside the others; wrong labels after them."""
    return one["others_learned"] is not None and one["memorised_from"] is not None and one["memorised_from"] > one["others_learned"]


def _trained_long(session: int, one: Mapping[str, Any]) -> str:
    best, lost = one["best_epoch"] + 1, 100 * one["accuracy_lost"]
    return (
        f"Session {session}: best at epoch {best} of {one['epochs']}; the rest cost {lost:.1f} points on validation images. "
        f"{best} {'epoch' if best == 1 else 'epochs'} would do."
    )
