"""What a reader must know to compare a run's numbers with others: sentences for report and card."""

from __future__ import annotations

from hf_cl.metrics import expected_calibration_error
from hf_cl.results.display import display_name, percent, without_folders
from hf_cl.results.results import ProtocolRecord, Results

SHOTS_OF = {
    "standard": "Images were chosen by the standard index lists.",
    "custom": "Images were chosen by custom index lists, not the standard ones: compare with care.",
    "own_draw": "Images were drawn by hf_cl from class_order_seed, not by the standard index lists: compare with care.",
}


def remarks(results: Results) -> list[str]:
    """One sentence each, most important first."""
    sentences = [_trained(results)] if len(results.sessions) > 1 else []
    if alone := [session.id for session in results.sessions if len(session.new_class_names) == 1 and session.trained]:
        which = f"{'session' if len(alone) == 1 else 'sessions'} {', '.join(map(str, alone))}"
        sentences.append(f"One new class came in {which}: a loss that compares a session's own classes is 0 there and trains nothing.")
    if again := [session.id for session in results.sessions if not session.new_class_names]:
        which = f"{'Session' if len(again) == 1 else 'Sessions'} {', '.join(map(str, again))}"
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
    sentences.append(f"Tested on the split {protocol.test_split!r}; the test images chose no epoch, no learning rate and no checkpoint.")
    if results.calibration:
        off = percent(expected_calibration_error(results.calibration[-1]))
        sentences.append(f"Confidence and accuracy lie {off} points apart on average (expected calibration error, 15 bins, after the end).")
    sentences.append(f"One run: seed {results.seed}, {_class_order(protocol)}. Other seeds and other orders give other numbers.")
    return sentences


def _tests_changed(results: Results) -> str:
    pairs = enumerate(zip(results.first_test_counts, results.test_counts, strict=True))
    changed = [f"session {j} on {now} where it had {then}" for j, (then, now) in pairs if now != then]
    tested = f" The last evaluation tests {', '.join(changed[:10])}{' ...' if len(changed) > 10 else ''}." if changed else ""
    return f"The test images of earlier sessions changed while the run went on: accuracies before and after are of other images.{tested}"


def _class_order(protocol: ProtocolRecord) -> str:
    return f"class order {display_name(without_folders(protocol.class_order))!r} with class_order_seed {protocol.class_order_seed}"


def _trained(results: Results) -> str:
    idle = [session.id for session in results.sessions if not session.trained]
    if not idle:
        return "Every session was trained."
    if len(idle) == len(results.sessions):
        return "Nothing was trained: no optimizer step was taken, classes were only added to the head."
    if idle == [session.id for session in results.sessions[1:]]:
        return "Nothing was trained after session 0: no optimizer step was taken, later classes were only added to the head."
    return f"No optimizer step was taken in {'session' if len(idle) == 1 else 'sessions'} {', '.join(map(str, idle))}."
