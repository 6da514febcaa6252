"""Which adapter a command line means."""

from __future__ import annotations

from pathlib import Path


def local_session(adapter: str, revision: str | None) -> tuple[str, str | None]:
    """Adapter and revision as `hf_cl.load` takes them: in a run folder, a revision is one of its sessions.

    Raises ValueError where the run has no such session.
    """
    sessions = Path(adapter) / "adapters"
    if revision is None or not sessions.is_dir():
        return adapter, revision
    chosen = sessions / revision
    if Path(revision).name != revision or not chosen.is_dir():
        there = sorted((path.name for path in sessions.iterdir()), key=lambda name: (len(name), name))
        raise ValueError(f"{adapter} has no revision {revision!r}; it has {', '.join(there) or 'none'}.")
    return str(chosen), None
