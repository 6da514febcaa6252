"""What can be said of the sessions to come, once the adapter is in its place and before anything trains."""

from __future__ import annotations

from hf_cl.backbones import TextHead
from hf_cl.contracts import Part
from hf_cl.training.run import Run
from hf_cl.training.session_checks import check_new_classes, check_room, check_session, check_vectors, warn_of_few_classes
from hf_cl.training.start import check_needs


def check_coming(run: Run) -> None:
    """Of all sessions that are to be trained, so that no mistake waits for a late one.

    Raises ValueError for what a session, a head or a part cannot do.
    """
    sessions, method, head = run.plan.sessions, run.method, run.head
    without = [session.id for session in sessions if not session.new_class_names]
    always = [head, *method.parts, *run.probes]
    check_room(head, sessions[-1])
    check_vectors(head, run.settings.marks)
    trained_from = run.position.session
    if run.start is not None:
        without, trained_from = [0, *without], max(1, trained_from)
        check_needs(method, _parts(run))
    for coming in sessions[trained_from:]:
        world, phases = run.accelerator.num_processes, run.plan.phases[coming.id]
        given = (*run.tuner.roles, *run.tuner.extras)
        names_unseen = isinstance(head, TextHead)
        check_session(coming, phases, run.settings, world, given, names_unseen, without, head.reads_given, head.extras)
        training = [method.rule, *(term for phase in phases for term in phase.losses)] if phases else []
        check_new_classes(coming, [*always, *training])
        warn_of_few_classes(coming, phases)


def declared_statistics(run: Run) -> frozenset[str]:
    """What heads and parts of any session read of the class statistics beyond counts and means."""
    return run.head.statistics.union(*(part.statistics for part in _parts(run)))


def _parts(run: Run) -> list[Part]:
    return [*run.plan.losses().values(), *run.method.parts, run.method.rule, *run.probes]
