"""A local web server with the habits of LaMP's, and bad ones that can be switched on."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HTML = b"<!DOCTYPE html><html><body>LaMP</body></html>"


def questions(count):
    rows = [
        {"id": str(i), "input": "x" * 100, "profile": [{"id": f"{i}0", "text": "y" * 40}]}
        for i in range(count)
    ]
    return json.dumps(rows).encode()


def outputs(count):
    golds = [{"id": str(i), "output": "a" * 100} for i in range(count)]
    return json.dumps({"task": "LaMP_3", "golds": golds}).encode()


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`; `server.breaks[path]` lists how many bytes a request gets."""

    def do_GET(self):
        server = self.server
        server.seen.append((self.path, dict(self.headers)))
        if server.statuses.get(self.path):
            self.send_response(server.statuses[self.path].pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.files.get(self.path, HTML)  # a wrong path answers 200
        start = 0
        wanted = self.headers.get("Range")
        fresh = self.headers.get("If-Range") in (None, server.etag)
        if wanted and fresh and server.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            shown = start + server.range_shift
            self.send_header("Content-Range", f"bytes {shown}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.lengths:
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cut = server.breaks[self.path].pop(0) if server.breaks.get(self.path) else None
        self.wfile.write(body[start:] if cut is None else body[start : start + cut])
        self.close_connection = True

    def log_message(self, *args):
        pass


@contextmanager
def running():
    """The server, with an empty site, on a free port."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.files, httpd.breaks, httpd.statuses, httpd.seen = {}, {}, {}, []
    httpd.etag, httpd.ranges, httpd.lengths, httpd.range_shift = '"v1"', True, True, 0
    httpd.url = f"http://127.0.0.1:{httpd.server_port}/LaMP"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield httpd
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def serve(server, folder="LaMP_3", count=50):
    """Put train and dev of a task on the server."""
    for part in ("train", "dev"):
        base = f"/LaMP/{folder}/{part}/{part}"
        server.files[f"{base}_questions.json"] = questions(count)
        server.files[f"{base}_outputs.json"] = outputs(count)
