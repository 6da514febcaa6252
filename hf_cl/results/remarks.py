"""What a reader must know to compare a run's numbers with others: sentences for report and card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_cl.metrics import expected_calibration_error
from hf_cl.results.display import display_name, percent, without_folders
from hf_cl.results.epoch_remarks import epoch_remarks
from hf_cl.results.results import ProtocolRecord, Results

SHOTS_OF = {
    "standard": "Images were chosen by the standard index lists.",
    "custom": "Images were chosen by custom index lists, not the standard ones: compare with care.",
    "own_draw": "Images were drawn by hf_cl from class_order_seed, not by the standard index lists: compare with care.",
}

LISTED = 20
"""Sessions named one by one."""


def remarks(results: Results) -> list[str]:
    """One sentence each, most important first."""
    sentences = [_trained(results), _kept(results)] if len(results.sessions) > 1 else []
    if results.started_from_adapter and "start_from" in results.protocol.details:
        started = display_name(str(results.protocol.details["start_from"]))
        sentences.append(f"The run started from the adapter {started}: session 0 is what that knew, measured before anything was learned.")
    again = [session.id for session in results.sessions if not session.new_class_names]
    if results.protocol.domains:
        sentences.append(_domains(results.protocol.domains[: len(results.sessions)]))
    elif again:
        which = _named(again).capitalize()
        sentences.append(f"{which} brought no new class, but more images of known ones: `forgetting` of earlier sessions may be a gain.")
    protocol = results.protocol
    if protocol.index_list is not None:
        sentences.append(SHOTS_OF[protocol.index_list.kind])
    if protocol.validation_fraction > 0:
        sentences.append(f"{100 * protocol.validation_fraction:g} % of the training images were kept out for validation.")
    if results.test_counts_then is not None:
        sentences.append(_tests_changed(results))
    if protocol.left_out_images:
        sentences.append(f"Images that could not be used and were left out (skip_bad_images): {protocol.left_out_images}.")
    if "excluded" in protocol.details:
        sentences.append(f"Pictures that were named in a file and left out (exclude): {protocol.details['excluded']['images']}.")
    sentences.append(f"Tested on the split {protocol.test_split!r}; the test images chose no epoch, no learning rate and no checkpoint.")
    if results.calibration:
        off = percent(expected_calibration_error(results.calibration[-1]))
        sentences.append(f"Confidence and accuracy lie {off} points apart on average (expected calibration error, 15 bins, after the end).")
        sentences.append(_temperature(results))
    if (novelty := results.probes.get("novelty")) and "auroc" in novelty:
        sentences.append(_novelty(novelty))
    sentences += epoch_remarks(results.probes)
    sentences.append(f"One run: seed {results.seed}, {_class_order(protocol)}. Other seeds and other orders give other numbers.")
    return sentences


def _domains(names: Sequence[str]) -> str:
    listed = ", ".join(map(display_name, names[:LISTED])) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
    return (
        f"Each session is a domain, in this order: {listed}. Nobody tells the model which an image is of. Classes come again in later "
        "domains, so `forgetting` of earlier ones may be a gain."
    )


def _novelty(found: Mapping[str, Any]) -> str:
    caught, rejected = percent(found["caught_at_95"]), percent(found["known_rejected"])
    return (
        f"Unknown classes: before they were taught, their test images scored above known ones with an AUROC of {found['auroc']:.3f} "
        f"({found['kind']}); {caught} % of them lie above 95 % of the known, and the threshold calls {rejected} % of the known unknown "
        "(`hf-cl predict --unknown`)."
    )


def _temperature(results: Results) -> str:
    found = results.sessions[-1].temperature
    if found is not None:
        return f"Probabilities are calibrated: logits are divided by {found:.3g}, the temperature that images unseen by the head fit best."
    return "Probabilities are not calibrated: nothing was held out of training to find a temperature by (validation_fraction)."


def _tests_changed(results: Results) -> str:
    pairs = enumerate(zip(results.first_test_counts, results.test_counts, strict=True))
    changed = [f"session {j} on {now} where it had {then}" for j, (then, now) in pairs if now != then]
    tested = f" The last evaluation tests {', '.join(changed[:10])}{' ...' if len(changed) > 10 else ''}." if changed else ""
    return f"The test images of earlier sessions changed while the run went on: accuracies before and after are of other images.{tested}"


def _class_order(protocol: ProtocolRecord) -> str:
    return f"class order {display_name(without_folders(protocol.class_order))!r} with class_order_seed {protocol.class_order_seed}"


def _kept(results: Results) -> str:
    if not results.kept_images:
        return "Exemplar-free: no image of an earlier session was trained on again."
    return (
        f"Not exemplar-free: up to {results.kept_images} training images of earlier sessions were kept and trained on again. Numbers "
        "compare with those of methods that keep as many."
    )


def _trained(results: Results) -> str:
    idle = [session.id for session in results.sessions if not session.trained and session.num_train]
    if not idle:
        return f"Every session was trained{_alone(results)}."
    if len(idle) == sum(session.num_train > 0 for session in results.sessions):
        return "Nothing was trained: no optimizer step was taken, classes were only added to the head."
    if idle == [session.id for session in results.sessions[1:]]:
        return (
            f"Nothing was trained after session 0: no optimizer step was taken, later classes were only added to the head{_alone(results)}."
        )
    return f"No optimizer step was taken in {_named(idle)}{_alone(results)}."


def _alone(results: Results) -> str:
    """What steps over a single new class can do, of the sessions that took some."""
    alone = [session.id for session in results.sessions if len(session.new_class_names) == 1 and session.trained]
    if not alone:
        return ""
    return f"; {_named(alone)} brought one new class, where a loss over a session's own classes alone is 0 and others alone teach"


def _named(sessions: Sequence[int]) -> str:
    """session 3; sessions 1, 2, 5; sessions 1 to 99."""
    if len(sessions) == 1:
        return f"session {sessions[0]}"
    if len(sessions) > 2 and sessions[-1] - sessions[0] == len(sessions) - 1:
        return f"sessions {sessions[0]} to {sessions[-1]}"
    more = f" and {len(sessions) - LISTED} more" if len(sessions) > LISTED else ""
    return f"sessions {', '.join(map(str, sessions[:LISTED]))}{more}"
