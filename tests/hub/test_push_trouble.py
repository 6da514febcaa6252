"""A push in trouble: cut off at every request, refused, made to wait."""

from __future__ import annotations

import pytest
from example_run import make_run
from huggingface_hub import constants

from hf_cl.hub.access import HubError
from hf_cl.hub.push import push_to_hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub 2.4 calls httpx2 by an old name


def outcome(hub):
    repository = hub.repositories["me/photos"]
    tags = {tag: repository.at(tag).files for tag in sorted(repository.tags)}
    return tags, hub.files("me/photos"), [commit.message for commit in repository.commits]


@pytest.fixture(scope="module")
def two_sessions(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("short") / "run", sessions=2)


WAYS = ("lose", "drop", 503)


@pytest.mark.parametrize(
    ("how", "first", "every"),
    [*((how, first, 3) for first, how in enumerate(WAYS, 1)), *(pytest.param(how, 1, 1, marks=pytest.mark.slow) for how in WAYS)],
)
def test_a_push_that_stops_anywhere_goes_on(hub, two_sessions, how, first, every, monkeypatch):
    """Every request is the first to fail in one of the three ways; in long runs in each."""
    monkeypatch.setattr("hf_cl.hub.access.WAITS", ())
    run = two_sessions
    push_to_hub(run, "me/photos")  # a first push of a process asks the hub for what it then remembers
    hub.repositories.clear(), hub.blobs.clear(), hub.requests.clear()
    push_to_hub(run, "me/photos")
    whole, total = outcome(hub), len(hub.requests)
    failed = 0
    for k in range(first, total + 1, every):
        hub.repositories.clear(), hub.blobs.clear(), hub.requests.clear()
        hub.interrupt = lambda number, method, path, k=k: how if number >= k else None
        try:
            push_to_hub(run, "me/photos")
        except HubError as error:
            failed += 1
            assert "the same push goes on" in str(error).lower() or "checking whether" in str(error)
        hub.interrupt = lambda number, method, path: None
        push_to_hub(run, "me/photos")
        assert outcome(hub) == whole, f"{how} from request {k} on"
    assert failed == len(range(first, total + 1, every)) and total >= 20


@pytest.mark.parametrize(("first", "how"), [(1, "drop"), (2, "lose"), (3, 429), (4, 500)])
def test_passing_trouble_is_waited_out(hub, two_sessions, first, how):
    run = two_sessions
    push_to_hub(run, "me/photos")
    whole, total = outcome(hub), len(hub.requests)
    for k in range(first, total + 1, 4):
        hub.repositories.clear(), hub.blobs.clear(), hub.requests.clear()
        hub.interrupt = lambda number, method, path, k=k: how if number == k else None
        push_to_hub(run, "me/photos")
        assert outcome(hub) == whole, f"{how} at request {k}"


def test_a_refusal_is_not_repeated(hub, run):
    hub.interrupt = lambda number, method, path: 403 if "/commit/" in path else None
    with pytest.raises(HubError, match=r"pushing to me/photos: the token may not do that \(403\).* goes on where it stopped: hf-cl push"):
        push_to_hub(run, "me/photos")
    assert sum("/commit/" in path for _, path in hub.requests) == 1


def test_an_upload_library_that_gives_up_is_no_traceback(hub, run, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("Data processing error\nmore")

    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", fails)
    with pytest.raises(HubError, match=r"The upload to me/photos failed: Data processing error The same push goes on .*: hf-cl push"):
        push_to_hub(run, "me/photos")


def test_a_hub_without_xet_is_told_from_a_network_that_is_down(hub, two_sessions, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)  # hf_xet asks for its own token, and raises a bare ConnectionError
    monkeypatch.setattr("hf_cl.hub.access.WAITS", (60.0,))
    with pytest.raises(HubError, match=r"does not offer Xet storage .*404 Not Found.*Set HF_HUB_DISABLE_XET=1 and push again") as failure:
        push_to_hub(two_sessions, "me/photos")
    assert f"{hub.url}/api/models/me/photos/xet-write-token/main" in str(failure.value)
    assert hub.repositories["me/photos"].tags == {}


def test_what_an_upload_library_was_told_is_passed_on_without_signatures(hub, two_sessions, monkeypatch):
    def fails(*args, **kwargs):
        raise ConnectionError("HTTP status client error (403 Forbidden), domain: https://store.example/x?X-Amz-Signature=abc")

    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", fails)
    with pytest.raises(HubError, match=r"an upload was refused \(HTTP status client error \(403 Forbidden\)") as failure:
        push_to_hub(two_sessions, "me/photos")
    assert "https://store.example/x)" in str(failure.value) and "abc" not in str(failure.value)


def test_a_refusal_without_a_sentence_of_its_own_names_status_and_address(hub, two_sessions):
    hub.interrupt = lambda number, method, path: 418 if "/commit/" in path else None
    with pytest.raises(HubError, match=r"it refused the request \(status 418 at http.*/api/models/me/photos/commit/main: "):
        push_to_hub(two_sessions, "me/photos")
