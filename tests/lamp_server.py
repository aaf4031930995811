"""A local web server with the habits of LaMP's, which can break off or not say how much comes."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ETAG = '"v1"'
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
        body = server.files.get(self.path, HTML)  # a wrong path answers 200
        start = 0
        wanted = self.headers.get("Range")
        if wanted and self.headers.get("If-Range") == ETAG:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("ETag", ETAG)
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
    httpd.files, httpd.breaks, httpd.seen, httpd.lengths = {}, {}, [], True
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
