"""A small stand-in for the Hugging Face Hub on this machine: what the real client asks over HTTP, and no more.

Repositories are commits of files in memory. Large files (``*.safetensors``) are kept apart by their sha256 and served,
as on the Hub, from another host (``localhost`` instead of ``127.0.0.1``) behind a redirect that bears their metadata.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_valid"
OWNER = "me"
"""Whom ``TOKEN`` belongs to."""

LARGE = ".safetensors"


class Refusal(Exception):
    """An answer other than 200, with the headers by which the client tells them apart."""

    def __init__(self, status: int, code: str = "", message: str = "", **more: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.body = {"error": message, **more}


@dataclass
class Repository:
    """``commits``: id -> files; ``refs``: branch or tag -> id."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """A further commit on a branch that holds exactly these files."""
        content = repr((sorted(files.items()), self.refs.get(branch), branch)).encode()
        digest = hashlib.sha1(content).hexdigest()
        self.commits[digest] = dict(files)
        self.refs[branch] = digest
        return digest

    def head(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.refs[branch]]

    def find(self, revision: str) -> str:
        found = self.refs.get(revision, revision)
        if found not in self.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found


@dataclass(frozen=True)
class Request:
    """``start``: first byte that is asked for; more than 0 where a download goes on."""

    method: str
    path: str
    token: str | None
    start: int = 0


class FakeHub:
    """The server's state; ``endpoint`` is its address while :func:`serving` runs.

    Attributes:
        repositories: by ``owner/name``.
        storage: large files by sha256.
        requests: all that were answered, in order.
        refuse: asked before each request is answered; what it raises becomes the answer.
        spoil: applied to the content of each large file on its way out.
    """

    def __init__(self) -> None:
        self.endpoint = ""
        self.repositories: dict[str, Repository] = {}
        self.storage: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.refuse: Callable[[Request], None] = lambda request: None
        self.spoil: Callable[[bytes], bytes] = lambda content: content

    def add(self, name: str, files: dict[str, bytes], **settings: bool) -> Repository:
        """A repository with one commit."""
        repository = self.repositories[name] = Repository(**settings)
        repository.commit(files)
        return repository

    def add_folder(self, name: str, folder: Path, **settings: bool) -> Repository:
        return self.add(name, {path.name: path.read_bytes() for path in folder.iterdir()}, **settings)

    def refuse_where(self, method: str, pattern: str, status: int, message: str = "on purpose") -> None:
        """Answer requests of this kind with an error from now on."""

        def refuse(request: Request) -> None:
            if request.method == method and re.search(pattern, request.path):
                raise Refusal(status, message=message)

        self.refuse = refuse

    def asked(self, method: str, pattern: str = "") -> list[str]:
        """Paths of the requests of this kind."""
        return [one.path for one in self.requests if one.method == method and re.search(pattern, one.path)]

    # --- what the routes answer: (status, headers, body) ---

    def readable(self, name: str, token: str | None) -> Repository:
        repository = self.repositories.get(name)
        if token not in (None, TOKEN):
            raise Refusal(401, message="Invalid credentials in Authorization header")
        if repository is None or (repository.private and token is None):
            # The Hub does not say which of the two it is.
            raise Refusal(401 if token is None else 404, "RepoNotFound", "Repository not found")
        return repository

    def writable(self, name: str, token: str | None) -> Repository:
        if token is None:
            raise Refusal(401, message="Invalid username or password.")
        repository = self.readable(name, token)
        if not name.startswith(f"{OWNER}/"):
            raise Refusal(403, message=f"You do not have write access to {name}")
        return repository

    def info(self, request: Request, name: str, revision: str = "main") -> Any:
        repository = self.readable(name, request.token)
        commit = repository.find(revision)
        siblings = [{"rfilename": path} for path in repository.commits[commit]]
        return {"id": name, "sha": commit, "private": repository.private, "tags": [], "siblings": siblings}

    def tree(self, request: Request, name: str, revision: str) -> Any:
        repository = self.readable(name, request.token)
        entries = []
        for path, content in repository.commits[repository.find(revision)].items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
            if path.endswith(LARGE):
                entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
            entries.append(entry)
        return entries

    def create(self, request: Request, body: bytes) -> Any:
        wanted = json.loads(body)
        name = f"{wanted.get('organization') or OWNER}/{wanted['name']}"
        if name in self.repositories:
            raise Refusal(409, message="You already created this model repo", url=f"{self.endpoint}/{name}")
        if request.token != TOKEN:
            raise Refusal(401, message="Invalid username or password.")
        if not name.startswith(f"{OWNER}/"):
            raise Refusal(403, message="You do not have the rights to create a model under this namespace")
        self.add(
            name, {".gitattributes": b""}, private=wanted.get("visibility") == "private" or bool(wanted.get("private"))
        )
        return {"url": f"{self.endpoint}/{name}", "name": name}

    def branch(self, request: Request, name: str, branch: str) -> Any:
        repository = self.writable(name, request.token)
        if branch in repository.refs:
            raise Refusal(409, message="Reference already exists")
        repository.refs[branch] = repository.refs["main"]
        return {}

    def preupload(self, request: Request, name: str, revision: str, body: bytes) -> Any:
        self.writable(name, request.token).find(revision)
        modes = [
            (one["path"], "lfs" if one["path"].endswith(LARGE) else "regular") for one in json.loads(body)["files"]
        ]
        return {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes]}

    def batch(self, request: Request, name: str, body: bytes) -> Any:
        self.writable(name, request.token)
        objects = []
        for one in json.loads(body)["objects"]:
            actions = {
                "upload": {"href": f"{self.storage_endpoint}/storage/{one['oid']}"},
                "verify": {"href": f"{self.endpoint}/{name}/verify"},
            }
            objects.append(one if one["oid"] in self.storage else {**one, "actions": actions})
        return {"transfer": "basic", "objects": objects}

    def verify(self, request: Request, name: str, body: bytes) -> Any:
        wanted = json.loads(body)
        if len(self.storage.get(wanted["oid"], b"")) != wanted["size"]:
            raise Refusal(404, message="Object not found")
        return {}

    def commit(self, request: Request, name: str, revision: str, body: bytes) -> Any:
        repository = self.writable(name, request.token)
        repository.find(revision)
        files = dict(repository.head(revision))
        for line in body.decode().splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.storage[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        digest = repository.commit(files, revision)
        return {"success": True, "commitOid": digest, "commitUrl": f"{self.endpoint}/{name}/commit/{digest}"}

    def file(self, request: Request, name: str, revision: str, path: str) -> tuple[int, dict[str, str], bytes]:
        repository = self.readable(name, request.token)
        if repository.gated:
            # Its files can be listed, but not read.
            raise Refusal(403, "GatedRepo", f"Access to model {name} is restricted")
        commit = repository.find(revision)
        content = repository.commits[commit].get(path)
        if content is None:
            raise Refusal(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit}
        if not path.endswith(LARGE):
            return 200, headers | {"ETag": f'"{blob_id(content)}"'}, content
        digest = sha256(content)
        self.storage[digest] = content
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        return 302, headers | {"Location": f"{self.storage_endpoint}/storage/{digest}"}, b""

    @property
    def storage_endpoint(self) -> str:
        return self.endpoint.replace("127.0.0.1", "localhost")

    def answer(self, request: Request, body: bytes) -> tuple[int, dict[str, str], bytes]:
        self.requests.append(request)
        self.refuse(request)
        if match := re.fullmatch(r"/storage/(\w+)", request.path):
            if request.token is not None:
                raise Refusal(400, message="a token was sent to the storage host")
            if request.method == "PUT":
                if sha256(body) != match[1]:
                    raise Refusal(400, message="BadDigest")
                self.storage[match[1]] = body
                return 200, {}, b""
            content = self.spoil(self.storage[match[1]])
            if request.start == 0:
                return 200, {}, content
            reach = f"bytes {request.start}-{len(content) - 1}/{len(content)}"
            return 206, {"Content-Range": reach}, content[request.start :]
        for method, pattern, route in ROUTES:
            match = re.fullmatch(pattern, request.path)
            if match and request.method in method:
                parts = [unquote(part) for part in match.groups()]
                if route is FakeHub.file:
                    return self.file(request, *parts)
                arguments = [*parts, body] if route in TAKE_BODY else parts
                return 200, {"Content-Type": "application/json"}, json.dumps(route(self, request, *arguments)).encode()
        raise Refusal(404, message=f"the fake has no {request.method} {request.path}")


NAME = r"([^/]+/[^/]+)"
ROUTES: tuple[tuple[tuple[str, ...], str, Callable[..., Any]], ...] = (
    (("GET",), rf"/api/models/{NAME}", FakeHub.info),
    (("GET",), rf"/api/models/{NAME}/revision/([^/]+)", FakeHub.info),
    (("GET",), rf"/api/models/{NAME}/tree/([^/]+)", FakeHub.tree),
    (("HEAD", "GET"), rf"/{NAME}/resolve/([^/]+)/(.+)", FakeHub.file),
    (("POST",), r"/api/repos/create", FakeHub.create),
    (("POST",), rf"/api/models/{NAME}/branch/([^/]+)", FakeHub.branch),
    (("POST",), r"/api/validate-yaml", lambda hub, request: {"errors": [], "warnings": []}),
    (("POST",), rf"/api/models/{NAME}/preupload/([^/]+)", FakeHub.preupload),
    (("POST",), rf"/{NAME}\.git/info/lfs/objects/batch", FakeHub.batch),
    (("POST",), rf"/{NAME}/verify", FakeHub.verify),
    (("POST",), rf"/api/models/{NAME}/commit/([^/]+)", FakeHub.commit),
)
TAKE_BODY = (FakeHub.create, FakeHub.preupload, FakeHub.batch, FakeHub.verify, FakeHub.commit)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def blob_id(content: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving() -> Iterator[FakeHub]:
    """A hub that answers, on a port of its own, until the block ends."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            body = self.read_body()
            scheme, _, token = self.headers.get("Authorization", "").partition(" ")
            start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
            request = Request(
                self.command,
                urlsplit(self.path).path,
                token if scheme == "Bearer" else None,
                0 if start is None else int(start[1]),
            )
            try:
                status, headers, content = hub.answer(request, body)
            except Refusal as refusal:
                status, content = refusal.status, json.dumps(refusal.body).encode()
                headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
                headers["Content-Type"] = "application/json"
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = do

        def read_body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            chunks = []
            while size := int(self.rfile.readline().strip(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
