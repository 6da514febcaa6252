"""The Hub as hf_cl asks it: what a push needs is checked beforehand, passing trouble is waited out, the rest becomes a sentence."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from huggingface_hub import HfApi, get_token, is_offline_mode
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

logger = logging.getLogger(__name__)

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds between two tries of a request that met passing trouble."""
LONGEST_WAIT = 120.0
"""Seconds; a Hub that asks for more patience gets an error instead."""
HUB = "https://huggingface.co"
UNREACHED = (HTTPError, ConnectionError)
"""What huggingface_hub raises where the Hub does not answer, or does not do what was asked (ConnectionError: offline, or its uploads)."""

_PASSWORD = re.compile(r"(?<=://)[^/\s@]+@")
_LONGEST_REASON = 300
"""Characters of what a library says."""

T = TypeVar("T")


def endpoint() -> str:
    """The Hub in use (`HF_ENDPOINT`), without a password."""
    return _PASSWORD.sub("***@", HfApi().endpoint)


def tokens() -> str:
    """Where the Hub in use gives tokens."""
    return f"{endpoint()}/settings/tokens"


class HubError(ValueError):
    """The Hub did not do what was asked. The message says what to do. (A ValueError, as for a base that the Hub does not give.)"""


def check_push(repo_id: str, *, private: bool = False) -> None:
    """Find out before anything is trained or uploaded whether this machine may push to `repo_id`. Writes nothing.

    Args:
        repo_id: `owner/name`.
        private: whether the repository is meant to be private; one that exists and is public is refused.

    Raises ValueError for a name that no repository can have, and HubError, saying what to do, without network or token, for a token that
    is not valid or may not write there, and for a repository of another visibility.
    """
    check_name(repo_id)
    if is_offline_mode():
        raise HubError(f"Pushing to {repo_id} needs the network, and HF_HUB_OFFLINE is set. {_later(repo_id)}")
    check_token(repo_id)
    api = HfApi()
    try:
        who = attempt(api.whoami)
        public = attempt(lambda: api.repo_exists(repo_id)) and not attempt(lambda: api.model_info(repo_id)).private
    except UNREACHED as error:
        raise explained(error, f"checking whether {repo_id} can be pushed to") from error
    _check_rights(repo_id, repo_id.partition("/")[0], who)
    if private and public:
        raise HubError(f"{repo_id} exists and is public. Make it private in its settings, or choose another name.")


def check_token(repo_id: str) -> None:
    """Raise HubError where this machine has no token. Asks no network."""
    if get_token() is None:
        raise HubError(
            f"Pushing to {repo_id} needs a token of {endpoint()}, and there is none: run `hf auth login`, or set HF_TOKEN to one that may "
            f"write ({tokens()})."
        )


def check_name(repo_id: str) -> None:
    """Raise ValueError for a name that no repository can have, and for one without its owner. Asks no network."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no name for a repository: {error}") from error
    if "/" not in repo_id:
        raise ValueError(f"{repo_id!r} lacks its owner: a repository is owner/name, such as your-name/{repo_id}.")


def _check_rights(repo_id: str, owner: str, who: dict[str, Any]) -> None:
    names = [who["name"], *(organization["name"] for organization in who.get("orgs", []))]
    token = who.get("auth", {}).get("accessToken", {})
    if token.get("role") == "read":
        raise HubError(f"The token of {who['name']!r} only reads. Pushing to {repo_id} needs one that may write ({tokens()}).")
    if token.get("role") == "fineGrained":  # it may reach beyond the account's own names, and not to all of them
        if not any(_may_write(scope, owner, repo_id) for scope in token.get("fineGrained", {}).get("scoped", [])):
            raise HubError(f"The token of {who['name']!r} may not write to {repo_id}: give it 'write' for {owner!r} ({tokens()}).")
    elif owner.lower() not in [name.lower() for name in names]:
        raise HubError(f"The token belongs to {who['name']!r}, which may write under {', '.join(names)}, not under {owner!r}.")


def _may_write(scope: dict[str, Any], owner: str, repo_id: str) -> bool:
    entity = str(scope.get("entity", {}).get("name", "")).lower()
    return entity in (owner.lower(), repo_id.lower()) and "repo.write" in scope.get("permissions", [])


def attempt(call: Callable[[], T]) -> T:
    """The value of `call()`. Lost connections, 429 and 5xx are waited out (`WAITS`, or what the Hub asks for); the rest is raised at once.

    `call` is made again as a whole, so it must be one that may be made twice.
    """
    for wait in WAITS:
        try:
            return unwrapped(call)
        except UNREACHED as error:
            if not _passes(error) or (longer := max(wait, _asked_wait(error))) > LONGEST_WAIT:
                raise
            logger.info("%s; trying again in %.0f s", type(error).__name__, longer)
            time.sleep(longer)
    return unwrapped(call)


def unwrapped(call: Callable[[], T]) -> T:
    """The value of `call()`, with the Hub's own error where huggingface_hub hides it: in an upload thread, or behind a missing file."""
    try:
        return call()
    except (RuntimeError, LocalEntryNotFoundError) as error:
        if isinstance(error.__cause__, UNREACHED):
            raise error.__cause__ from error
        raise


def _passes(error: Exception) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return not isinstance(error, OfflineModeIsEnabled) and not _speaks_no_xet(error)


def _speaks_no_xet(error: Exception) -> bool:
    """hf_xet knows no class of error for it: only its text names the status and the address."""
    return "xet-write-token" in str(error) and "404" in str(error)


def _asked_wait(error: Exception) -> float:
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return float(asked) if asked.isdigit() else 0.0


def explained(error: Exception, doing: str, then: str = "") -> HubError:
    """What went wrong while `doing`, and what to do, in two sentences; `then` comes last. No token and no signed address is quoted.

    Args:
        error: of huggingface_hub.
        doing: "pushing to me/x".
        then: how to go on afterwards.
    """
    return HubError(" ".join(filter(None, [f"The Hub failed while {doing}: {_reason(error)}", then])))


def _reason(error: Exception) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set. Unset it."
    if not isinstance(error, HfHubHTTPError):
        return _unreached(error)
    missing = isinstance(error, RepositoryNotFoundError | RevisionNotFoundError)  # the Hub says 401 where it was asked without a token
    status = 404 if missing else error.response.status_code
    reasons = {
        401: f"it does not know the token (401). Run `hf auth login`, or set HF_TOKEN to a valid one ({tokens()}).",
        403: f"the token may not do that (403). It needs to write there ({tokens()}).",
        404: "there is no such repository or revision (404), or the token may not see it. Check the name and HF_TOKEN.",
        409: "somebody else changed the repository at the same time (409). Try again.",
        429: "too many requests (429). Wait some minutes and try again.",
    }
    if status in reasons:
        return reasons[status]
    where = f"status {status} at {_said(str(error.response.url))}"
    if status >= 500:
        more = "; https://status.huggingface.co says more" if endpoint() == HUB else ""
        return f"it is in trouble ({where}). Try again later{more}."
    return f"it refused the request ({where}{': ' + _said(error.server_message) if error.server_message else ''})."


def _unreached(error: Exception) -> str:
    said = _said(str(error))
    if _speaks_no_xet(error):
        return f"{endpoint()} does not offer Xet storage ({said}). Set HF_HUB_DISABLE_XET=1 and push again."
    if "HTTP status" in said:  # hf_xet was answered
        return f"an upload was refused ({said})."
    because = f": {said}" if said else ""
    return f"no connection to {endpoint()} ({type(error).__name__}{because}). Check the network and HF_ENDPOINT."


def _said(text: str) -> str:
    """The first line of what a library says. The query of an address may hold a signature: it is left out."""
    line = re.sub(r"\?\S*", "", text.strip().partition("\n")[0])
    return _PASSWORD.sub("***@", line[:_LONGEST_REASON]).rstrip(".")


def _later(repo_id: str) -> str:
    return f"Unset it, or push later: `hf-cl push RUN {repo_id}`."
