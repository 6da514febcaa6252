"""What is known of a token and a repository before anything is trained, and how long a Hub is waited for."""

from __future__ import annotations

import pytest
from example_run import TOKEN
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError
from loopback_hub import Account

from hf_cl.hub.access import HubError, attempt, check_push

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub 2.4 calls httpx2 by an old name


@pytest.mark.parametrize(
    ("account", "repo_id", "message"),
    [
        (Account(), "photos", "'photos' lacks its owner: a repository is owner/name"),
        (Account(), "me/with space", "'me/with space' is no name for a repository"),
        (Account(), "a/b/c", "is no name for a repository"),
        (Account(role="read"), "me/photos", "The token of 'me' only reads"),
        (Account(), "you/photos", "belongs to 'me', which may write under me, not under 'you'"),
        (Account(fine_grained={"scoped": []}), "me/photos", "may not write to me/photos: give it 'write' for 'me'"),
        (
            Account(fine_grained={"scoped": [{"entity": {"name": "me"}, "permissions": ["repo.content.read"]}]}),
            "me/photos",
            "may not write",
        ),
    ],
)  # fmt: skip
def test_what_may_not_be_pushed_is_known_beforehand(hub, account, repo_id, message):
    hub.accounts[TOKEN] = account
    with pytest.raises((HubError, ValueError), match=message):
        check_push(repo_id)


@pytest.mark.parametrize(
    ("account", "repo_id"),
    [
        (Account(), "me/photos"),
        (Account(), "Me/photos"),
        (Account(organizations=("zoo",)), "zoo/photos"),
        (Account(fine_grained={"scoped": [{"entity": {"name": "me/photos"}, "permissions": ["repo.write"]}]}), "me/photos"),
    ],
)
def test_what_may_be_pushed(hub, account, repo_id):
    hub.accounts[TOKEN] = account
    check_push(repo_id, private=True)
    assert {method for method, _ in hub.requests} == {"GET"}  # nothing is made


def test_no_token(hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(HubError, match=r"needs a token of http://127.0.0.1:.*, and there is none: run `hf auth login`, or set HF_TOKEN"):
        check_push("me/photos")


def test_an_unknown_token(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_mistyped")
    with pytest.raises(HubError, match=r"does not know the token \(401\)") as failure:
        check_push("me/photos")
    assert "hf_mistyped" not in str(failure.value)


def test_no_network(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"no connection to http://127.0.0.1:9 .*Check the network"):
        check_push("me/photos")


def test_offline(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"HF_HUB_OFFLINE is set. Unset it, or push later: `hf-cl push RUN me/photos`"):
        check_push("me/photos")
    assert not hub.requests


def test_a_training_that_could_not_be_pushed_does_not_start(hub, tmp_path):
    from hf_cl.methods import OvorSettings
    from hf_cl.run import run as train_and_push

    for values, message in (
        ({"push_to_hub": "you/photos"}, "not under 'you'"),
        ({"push_to_hub": "me/photos", "backbone": str(tmp_path)}, "nobody else can load"),
        ({"private": True}, "private is about the repository of push_to_hub"),
    ):
        with pytest.raises((HubError, ValueError), match=message):
            train_and_push(OvorSettings(output_dir=str(tmp_path / "run"), **values))
    assert not (tmp_path / "run").exists()


def test_a_hub_that_asks_for_patience_beyond_reason_gets_none(hub, monkeypatch):
    waited = []
    monkeypatch.setattr("hf_cl.hub.access.time.sleep", waited.append)
    monkeypatch.setattr("hf_cl.hub.access._asked_wait", lambda error: 30.0 if len(waited) < 1 else 3600.0)
    monkeypatch.setattr("hf_cl.hub.access.WAITS", (1.0, 2.0))
    hub.interrupt = lambda number, method, path: 429
    with pytest.raises(HfHubHTTPError):
        attempt(HfApi().whoami)
    assert waited == [30.0]
