"""From a run folder to the Hub: one commit and one tag per session, then results, plots and card."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from hf_cl.hub.access import UNREACHED, HubError, attempt, check_push, explained
from hf_cl.hub.published import Content, SessionFiles, all_sessions, record_files


@dataclass(frozen=True)
class Pushed:
    """What a push did: the repository's address, the tags it made and those that were there, and remarks for people."""

    url: str
    new: list[str]
    present: list[str]
    remarks: list[str]


def push_to_hub(
    run: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    base_model: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Pushed:
    """Publish a run, finished or not: `revision="session-k"` is the model after session k, `main` the last one with results and card.

    Pushing again goes on where an earlier push stopped, and adds what has come since; what is there is not sent twice. The card on the Hub
    is replaced. Only adapters, their image processors and tokenizers, `results.json`, the plots and the card leave this machine.

    Args:
        run: a run folder.
        repo_id: `owner/name`; the repository is made if it does not exist.
        private: make it private.
        base_model: name of the base on the Hub, for a run whose base was a folder of this machine.
        say: called with a line after each session.

    Raises ValueError for a run that cannot be published as it is, and HubError for everything that has to do with the Hub: no network, no
    token, no rights, a public repository where a private one was asked for, tags that hold other adapters.
    """
    folder = Path(run)
    sessions = all_sessions(folder, base_model)
    records, remarks = record_files(folder, repo_id, sessions[-1])
    check_push(repo_id, private=private)
    api, new, present = HfApi(), [], []
    try:
        attempt(lambda: api.create_repo(repo_id, private=private or None, exist_ok=True))
        tags = {tag.name for tag in attempt(lambda: api.list_repo_refs(repo_id)).tags}
        for session in sessions:
            if session.tag in tags:
                _check_same(api, repo_id, session)
                present.append(session.tag)
        for session in sessions:
            if session.tag not in tags:
                commit = _commit(api, repo_id, session.files, session.message)
                attempt(lambda tag=session.tag, oid=commit: api.create_tag(repo_id, tag=tag, revision=oid, exist_ok=True))
                new.append(session.tag)
                say(f"{session.message} (revision {session.tag})")
        _commit(api, repo_id, {**sessions[-1].files, **records}, "Results, plots and card")
    except UNREACHED as error:
        raise explained(error, f"pushing to {repo_id}", _again(folder, repo_id)) from error
    except RuntimeError as error:  # of the library that uploads
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise HubError(f"The upload to {repo_id} failed: {reason} {_again(folder, repo_id)}") from error
    return Pushed(f"{api.endpoint}/{repo_id}", new, present, list(remarks))


def _again(folder: Path, repo_id: str) -> str:
    return f"The same push goes on where it stopped: hf-cl push {folder} {repo_id}."


def _commit(api: HfApi, repo_id: str, files: Mapping[str, Content], message: str) -> str:
    """Make `files` part of main; its commit. A try that comes after a lost answer finds nothing left to do, and makes no second commit."""
    return attempt(lambda: api.create_commit(repo_id, _additions(files), commit_message=message).oid)


def _additions(files: Mapping[str, Content]) -> list[CommitOperationAdd]:
    return [CommitOperationAdd(name, content if isinstance(content, bytes) else str(content)) for name, content in files.items()]


def _check_same(api: HfApi, repo_id: str, session: SessionFiles) -> None:
    """Raise HubError where the tag of a session holds another adapter."""
    there = attempt(lambda: [file for file in api.list_repo_tree(repo_id, revision=session.tag) if isinstance(file, RepoFile)])
    found = {file.path: file for file in there}
    for name, content in session.files.items():
        if name not in found or not _same(found[name], content):
            raise HubError(
                f"{repo_id} has a tag {session.tag} with another {name}: it belongs to another run. Push to another repository, or delete "
                f"the tags first: `hf repos tag delete {repo_id} {session.tag}`."
            )


def _same(file: RepoFile, content: Content) -> bool:
    data = content if isinstance(content, bytes) else content.read_bytes()
    return hashlib.sha256(data).hexdigest() == file.lfs.sha256 if file.lfs else git_hash(data) == file.blob_id
