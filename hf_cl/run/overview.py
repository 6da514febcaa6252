"""What a run is about to do, in a line."""

from __future__ import annotations

from hf_cl.contracts import Scenario
from hf_cl.results.display import display_name


def overview(scenario: Scenario, num_processes: int, device: object) -> str:
    """Classes by session, images, processes."""
    sessions = list(scenario)
    brought = [", ".join(session.new_class_names) for session in sessions]
    domains = (scenario.protocol.get("details") or {}).get("domains")
    if domains:
        groups = " | ".join(f"{name}: {classes}" if classes else name for name, classes in zip(domains, brought, strict=False))
    else:
        groups = " | ".join(classes or "more images of known classes" for classes in brought)
    images = (
        f"{sum(len(session.train) for session in sessions)} training and {sum(len(test.data) for test in sessions[-1].tests)} test images"
    )
    stream = f"{len(sessions)} {'session' if len(sessions) == 1 else 'sessions'} ({display_name(groups, 300)})"
    where = f"{num_processes} {'process' if num_processes == 1 else 'processes'} on {device}"
    name, classes = display_name(str(scenario.protocol["dataset"])), len(sessions[-1].class_names)
    return f"{name}: {classes} classes, {images}, {stream}; {where}."
