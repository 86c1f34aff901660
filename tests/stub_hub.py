"""A Hugging Face hub on 127.0.0.1: model info, tree and file requests with ETag and Range, and the ways they fail."""

import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".bin", ".gguf", ".model")  # what the hub keeps in Git LFS


class StubHub:
    def __init__(self):
        self.repos: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.status: dict[str, int] = {}  # path in a repository -> an answer other than its content
        self.cut: dict[str, list[int]] = {}  # path -> after how many bytes the next answers break off
        self.ranges = self.xet = True
        self.log: list[tuple[str, str, str]] = []
        self.sent: Counter[str] = Counter()  # body bytes by path
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.server.handle_error = lambda *connection: None  # clients that break off are part of the tests
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def fetched(self) -> set[str]:
        """Paths whose content was asked for."""
        return {path for method, path, _ in self.log if method == "GET" and path}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sibling(path: str, data: bytes) -> dict:
    entry = {"rfilename": path, "size": len(data), "blobId": oid(data)}
    if path.endswith(LARGE):
        entry["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 134}
    return entry


def tree_entry(path: str, data: bytes, xet: bool) -> dict:
    entry = {"type": "file", "path": path, "size": len(data), "oid": oid(data)}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
        entry |= {"xetHash": sha256(b"xet" + data)} if xet else {}
    return entry


class Handler(BaseHTTPRequestHandler):
    hub: StubHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+))?", path):
            return self.api(match[1], match[2], match[3])
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.resolve(match[1], match[2], match[3])
        self.refuse(404)

    def api(self, repo, kind, revision):
        self.hub.log.append((self.command, "", repo))
        if repo not in self.hub.repos:
            return self.refuse(404, "RepoNotFound")
        if revision not in (None, "main", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        files = self.hub.repos[repo].items()
        if kind == "tree":
            return self.json([tree_entry(path, data, self.hub.xet) for path, data in files])
        self.json({"id": repo, "sha": COMMIT, "siblings": [sibling(path, data) for path, data in files]})

    def resolve(self, repo, revision, path):
        self.hub.log.append((self.command, path, self.headers.get("Range", "")))
        if repo in self.hub.gated and self.headers.get("Authorization") != "Bearer hf_good":
            return self.refuse(403, "GatedRepo")
        if path in self.hub.status:
            return self.refuse(self.hub.status[path])
        if path not in self.hub.repos.get(repo, {}):
            return self.refuse(404, "EntryNotFound")
        self.content(path, self.hub.repos[repo][path])

    def content(self, path, data):
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, stop = 0, len(data)
        if wanted and self.hub.ranges:
            start, stop = int(wanted[1]), min(int(wanted[2] or stop) + 1, stop)
        self.send_response(206 if wanted and self.hub.ranges else 200)
        tag = sha256(data) if path.endswith(LARGE) else oid(data)
        self.send_header("ETag", f'"{tag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if self.command == "GET":
            self.body(path, memoryview(data)[start:stop])

    def body(self, path, data):
        cuts = self.hub.cut.get(path)
        if cuts and (cut := cuts.pop(0)) < len(data):
            data, self.close_connection = data[:cut], True
        self.hub.sent[path] += len(data)  # before, so that whoever has read it finds it counted
        self.wfile.write(data)

    def json(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status, code=None):
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()
