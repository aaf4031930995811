"""A local web server that plays the hub's API as far as streaming one dataset needs it.

Answers as the hub does: a dataset's facts, its files by folder, a file by commit with its size and hash in
headers, and parts of a file. What is asked for is kept in `server.seen`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WRITTEN = "2026-01-02T03:04:05.000Z"


class Hub(ThreadingHTTPServer):
    """One dataset, `name`, whose files are `files`; `revisions` are names of its only commit."""

    daemon_threads = True

    def __init__(self, name: str, files: Mapping[str, bytes], revisions: tuple[str, ...]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name, self.files, self.revisions = name, files, (*revisions, COMMIT)
        self.seen: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        sent = self.rfile.read(length)
        self._answer(body=True, sent=sent)

    def _answer(self, *, body: bool, sent: bytes = b"") -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.seen.append(f"{self.command} {path}")
        api, resolve = f"/api/datasets/{self.server.name}", f"/datasets/{self.server.name}/resolve/"
        if path == api or path.startswith(f"{api}/"):
            self._api(path.removeprefix(api).strip("/"), sent)
        elif path.startswith(resolve):
            revision, _, file = path.removeprefix(resolve).partition("/")
            self._file(revision, file, body=body)
        else:
            self._missing("RepoNotFound")

    def _api(self, asked: str, sent: bytes) -> None:
        what, _, rest = asked.partition("/")
        revision, _, below = rest.partition("/")
        if what and revision not in self.server.revisions:
            self._missing("RevisionNotFound")
        elif what in ("", "revision"):
            self._json(self._facts())
        elif what == "tree":
            inside = [name for name in self.server.files if name.startswith(below)]
            self._json(self._listed(below, inside)) if inside else self._missing("EntryNotFound")
        elif what == "paths-info":
            asked_for = json.loads(sent)["paths"]
            self._json([self._entry(name) for name in asked_for if name in self.server.files])
        else:
            self._missing("EntryNotFound")

    def _facts(self) -> dict[str, Any]:
        return {
            "_id": "0" * 24,
            "id": self.server.name,
            "sha": COMMIT,
            "private": False,
            "disabled": False,
            "gated": False,
            "lastModified": WRITTEN,
            "createdAt": WRITTEN,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": name} for name in self.server.files],
        }

    def _listed(self, below: str, names: list[str]) -> list[dict[str, Any]]:
        depth = len(below.split("/")) if below else 0
        folders = {"/".join(n.split("/")[: depth + 1]) for n in names if n.count("/") > depth}
        found: list[dict[str, Any]] = [
            {"type": "directory", "oid": "1" * 40, "size": 0, "path": folder}
            for folder in sorted(folders)
        ]
        recursive = "recursive=true" in self.path.lower()
        return found + [self._entry(n) for n in names if recursive or n.count("/") == depth]

    def _entry(self, name: str) -> dict[str, Any]:
        content = self.server.files[name]
        return {
            "type": "file",
            "oid": hashlib.sha1(content).hexdigest(),
            "size": len(content),
            "path": name,
            "lastCommit": {"id": COMMIT, "title": "files", "date": WRITTEN},
        }

    def _file(self, revision: str, name: str, *, body: bool) -> None:
        if revision not in self.server.revisions or name not in self.server.files:
            self._missing(
                "EntryNotFound" if revision in self.server.revisions else "RevisionNotFound"
            )
            return
        content = self.server.files[name]
        start, end = 0, len(content)
        wanted = self.headers.get("Range")
        if wanted is not None:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(end, int(last) + 1 if last else end)
        self.send_response(200 if wanted is None else 206)
        if wanted is not None:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if body:
            self.wfile.write(content[start:end])

    def _json(self, content: object) -> None:
        raw = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def running(
    name: str, files: Mapping[str, bytes], revisions: tuple[str, ...] = ("main",)
) -> Iterator[Hub]:
    """The hub with one dataset, on a free port."""
    hub = Hub(name, files, revisions)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
