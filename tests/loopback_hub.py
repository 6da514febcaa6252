"""A Hugging Face Hub in memory, on 127.0.0.1, for tests over real HTTP.

It answers what huggingface_hub asks when it creates repositories, commits, tags, lists and downloads; nothing leaves the machine.
`hub.interrupt` breaks a request: it gets the request's number (from 1), method and path, and returns None, a status, "drop" (the
connection closes before anything is done) or "lose" (it is done, and the answer gets lost).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LFS = (".safetensors", ".bin", ".png")
INVALID = "Invalid credentials in Authorization header"


@dataclass
class Account:
    """Whom a token belongs to, and what it may do."""

    name: str = "me"
    organizations: tuple[str, ...] = ()
    role: str = "write"
    fine_grained: dict[str, Any] | None = None


@dataclass
class Commit:
    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    private: bool = False
    commits: list[Commit] = field(default_factory=lambda: [Commit("0" * 40, "initial commit", {})])
    tags: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> Commit | None:
        if revision == "main":
            return self.commits[-1]
        oid = self.tags.get(revision, revision)
        return next((commit for commit in self.commits if commit.oid == oid), None)


class LoopbackHub:
    """The state of the server. `put` makes a repository without HTTP."""

    def __init__(self) -> None:
        self.url = ""
        self.accounts: dict[str, Account] = {"hf_loopback": Account()}
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.interrupt: Callable[[int, str, str], int | str | None] = lambda number, method, path: None
        self.lock = threading.RLock()

    def put(self, repo_id: str, files: dict[str, bytes], private: bool = False) -> None:
        repository = self.repositories.setdefault(repo_id, Repository(private))
        oid = hashlib.sha1(repr((sorted(files), len(repository.commits))).encode()).hexdigest()
        repository.commits.append(Commit(oid, "put", {**repository.commits[-1].files, **files}))

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        commit = self.repositories[repo_id].at(revision)
        assert commit is not None, f"no revision {revision}"
        return commit.files


class Answer(Exception):
    """Ends the handling of a request."""

    def __init__(self, status: int, body: Any = b"", **headers: str) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def handle_any(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.hub.lock:
            self.hub.requests.append((self.command, self.path))
            fault = self.hub.interrupt(len(self.hub.requests), self.command, self.path)
        if fault == "drop":
            self.close_connection = True
            return
        try:
            if isinstance(fault, int):
                raise Answer(fault, {"error": f"made to fail with {fault}"})
            with self.hub.lock:
                self.route(raw)
            raise Answer(404, {"error": "no such page"}, X_Error_Code="EntryNotFound")
        except Answer as answer:
            if fault == "lose":
                self.close_connection = True
                return
            self.send(answer)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = handle_any

    def send(self, answer: Answer) -> None:
        data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        self.send_response(answer.status)
        for name, value in {**headers, **{k.replace("_", "-"): v for k, v in answer.headers.items()}}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def route(self, raw: bytes) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        for verb, pattern, handler in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and (self.command == verb or (verb, self.command) == ("GET", "HEAD")):
                handler(self, raw, **found.groupdict())

    # Who asks, and for what
    def account(self) -> Account | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.accounts:
            raise Answer(401, {"error": INVALID}, X_Error_Message=INVALID)
        return self.hub.accounts.get(token)

    def writer(self, owner: str) -> None:
        account = self.account()
        if account is None:
            raise Answer(401, {"error": "Invalid username or password."})
        if account.role == "read" or owner not in (account.name, *account.organizations):
            message = "You don't have the rights to write under this namespace"
            raise Answer(403, {"error": message}, X_Error_Message=message)

    def repository(self, rid: str) -> Repository:
        repository, account = self.hub.repositories.get(rid), self.account()
        names = (account.name, *account.organizations) if account else ()
        if repository is None or (repository.private and rid.split("/", maxsplit=1)[0] not in names):
            raise Answer(404 if account else 401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        return repository

    def commit(self, rid: str, rev: str) -> Commit:
        commit = self.repository(rid).at(rev)
        if commit is None:
            raise Answer(404, {"error": f"Invalid rev id: {rev}"}, X_Error_Code="RevisionNotFound")
        return commit

    # Reading
    def whoami(self, raw: bytes) -> None:
        account = self.account()
        if account is None:
            raise Answer(401, {"error": "Invalid username or password."})
        token: dict[str, Any] = {"displayName": "test", "role": account.role}
        if account.fine_grained is not None:
            token |= {"role": "fineGrained", "fineGrained": account.fine_grained}
        organizations = [{"name": name, "type": "org"} for name in account.organizations]
        who = {"type": "user", "name": account.name, "orgs": organizations}
        raise Answer(200, who | {"auth": {"type": "access_token", "accessToken": token}})

    def info(self, raw: bytes, rid: str, rev: str = "main") -> None:
        commit, private = self.commit(rid, rev), self.repository(rid).private
        body = {"_id": "1", "id": rid, "modelId": rid, "sha": commit.oid, "private": private, "tags": [], "downloads": 0, "likes": 0}
        times = dict.fromkeys(("lastModified", "createdAt"), "2026-01-01T00:00:00.000Z")
        siblings = [{"rfilename": name} for name in sorted(commit.files)]
        raise Answer(200, body | times | {"disabled": False, "gated": False, "author": rid.split("/", maxsplit=1)[0], "siblings": siblings})

    def tree(self, raw: bytes, rid: str, rev: str, sub: str | None = None) -> None:
        raise Answer(200, [entry(name, data) for name, data in sorted(self.commit(rid, rev).files.items())])

    def paths(self, raw: bytes, rid: str, rev: str) -> None:
        files, wanted = self.commit(rid, rev).files, urllib.parse.parse_qs(raw.decode()).get("paths", [])
        raise Answer(200, [entry(name, files[name]) for name in wanted if name in files])

    def refs(self, raw: bytes, rid: str) -> None:
        repository = self.repository(rid)
        main = [{"name": "main", "ref": "refs/heads/main", "targetCommit": repository.commits[-1].oid}]
        tags = [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid} for name, oid in repository.tags.items()]
        raise Answer(200, {"branches": main, "tags": tags, "converts": []})

    def resolve(self, raw: bytes, rid: str, rev: str, file: str) -> None:
        commit = self.commit(rid, rev)
        if file not in commit.files:
            raise Answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit.oid)
        data = commit.files[file]
        headers = {"X_Repo_Commit": commit.oid, "ETag": f'"{etag(file, data)}"', "Content_Type": "application/octet-stream"}
        if file.endswith(LFS):
            headers |= {"X_Linked_Etag": headers["ETag"], "X_Linked_Size": str(len(data))}
        raise Answer(200, data, **headers)

    # Writing
    def create(self, raw: bytes) -> None:
        body = json.loads(raw)
        owner = body.get("organization") or (self.account() or Account()).name
        self.writer(owner)
        rid = f"{owner}/{body['name']}"
        url = {"url": f"{self.hub.url}/{rid}", "name": rid, "id": rid}
        if rid in self.hub.repositories:
            raise Answer(409, {"error": "You already created this model repo", **url})
        self.hub.repositories[rid] = Repository(body.get("visibility") == "private" or body.get("private") is True)
        raise Answer(200, url)

    def yaml(self, raw: bytes) -> None:
        raise Answer(200, {"errors": [], "warnings": []})

    def preupload(self, raw: bytes, rid: str, rev: str) -> None:
        self.writer(rid.split("/", maxsplit=1)[0])
        files, answers = self.commit(rid, rev).files, []
        for asked in json.loads(raw)["files"]:
            name = asked["path"]
            oid = etag(name, files[name]) if name in files else None
            answers.append({"path": name, "uploadMode": "lfs" if name.endswith(LFS) else "regular", "shouldIgnore": False, "oid": oid})
        raise Answer(200, {"files": answers})

    def batch(self, raw: bytes, rid: str) -> None:
        self.writer(rid.split("/", maxsplit=1)[0])
        objects = []
        for asked in json.loads(raw)["objects"]:
            upload = {"actions": {"upload": {"href": f"{self.hub.url}/_lfs/{asked['oid']}", "header": {}}}}
            objects.append({"oid": asked["oid"], "size": asked["size"], **({} if asked["oid"] in self.hub.blobs else upload)})
        raise Answer(200, {"transfer": "basic", "objects": objects})

    def store(self, raw: bytes, oid: str) -> None:
        if hashlib.sha256(raw).hexdigest() != oid:
            raise Answer(400, {"error": "sha256 mismatch"})
        self.hub.blobs[oid] = raw
        raise Answer(200)

    def add_commit(self, raw: bytes, rid: str, rev: str) -> None:
        self.writer(rid.split("/", maxsplit=1)[0])
        parent = self.commit(rid, rev)
        files, message = dict(parent.files), ""
        for line in map(json.loads, raw.splitlines()):
            kind, value = line["key"], line["value"]
            if kind == "header":
                message = value["summary"]
            elif kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif kind == "deletedFile":
                files.pop(value["path"], None)
        oid = hashlib.sha1(raw + parent.oid.encode()).hexdigest()
        self.repository(rid).commits.append(Commit(oid, message, files))
        raise Answer(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{rid}/commit/{oid}", "hookOutput": ""})

    def add_tag(self, raw: bytes, rid: str, rev: str) -> None:
        self.writer(rid.split("/", maxsplit=1)[0])
        tag, tags = json.loads(raw)["tag"], self.repository(rid).tags
        if tag in tags:
            raise Answer(409, {"error": "Tag reference exists already"})
        tags[tag] = self.commit(rid, rev).oid
        raise Answer(200)


def etag(name: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if name.endswith(LFS) else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def entry(name: str, data: bytes) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
    if name.endswith(LFS):
        return row | {"lfs": {"oid": etag(name, data), "size": len(data), "pointerSize": 134}}
    return row | {"oid": etag(name, data)}


RID, REV = r"(?P<rid>[^/]+/[^/]+)", r"(?P<rev>[^/]+)"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/validate-yaml", Handler.yaml),
    ("POST", r"/api/repos/create", Handler.create),
    ("GET", rf"/api/models/{RID}/tree/{REV}(?P<sub>/.*)?", Handler.tree),
    ("POST", rf"/api/models/{RID}/paths-info/{REV}", Handler.paths),
    ("POST", rf"/api/models/{RID}/preupload/{REV}", Handler.preupload),
    ("POST", rf"/api/models/{RID}/commit/{REV}", Handler.add_commit),
    ("POST", rf"/api/models/{RID}/tag/{REV}", Handler.add_tag),
    ("GET", rf"/api/models/{RID}/refs", Handler.refs),
    ("GET", rf"/api/models/{RID}/revision/{REV}", Handler.info),
    ("GET", rf"/api/models/{RID}", Handler.info),
    ("POST", rf"/{RID}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", r"/_lfs/(?P<oid>\w{64})", Handler.store),
    ("GET", rf"/{RID}/resolve/{REV}/(?P<file>.+)", Handler.resolve),
]


@contextmanager
def serving():
    """A running hub; closed at the end."""
    hub = LoopbackHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
