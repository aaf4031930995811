"""A local web server for releases, with every habit and fault a download may meet."""

from __future__ import annotations

import ssl
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`.

    `server.faults[path]` holds a dict of switches for each coming request of that path, the last of
    which stays: status, location, cut (bytes until the connection ends), endless, drip (seconds
    between bytes), slow_head, shift (of the range told), content_range, encoding, etag, body, bomb
    (kilobytes of headers).
    """

    def do_GET(self):
        server, path = self.server, self.path.partition("?")[0]
        faults = server.faults.get(path, [{}])
        fault = faults.pop(0) if len(faults) > 1 else faults[0]
        record = {"path": self.path, "headers": dict(self.headers), "sent": 0}
        server.seen.append(record)
        self.close_connection = True
        with suppress(OSError):  # the other side had enough
            self._answer(server, path, fault, record)

    def do_CONNECT(self):
        self.server.seen.append({"path": self.path, "headers": dict(self.headers), "sent": 0})
        self.send_response(407)
        self.end_headers()

    def _answer(self, server, path, fault, record):
        if fault.get("slow_head"):
            for byte in b"HTTP/1.1 200 OK\r\nX-Pad: " + b"x" * 1000:
                self.wfile.write(bytes([byte]))
                time.sleep(fault["slow_head"])
        for number in range(fault.get("bomb", 0)):
            self.send_header(f"X-{number}", "x" * 1000)
        status = fault.get("status") or (200 if path in server.files else 404)
        if status != 200:
            self.send_response(status)
            self.send_header("Location", fault.get("location", ""))
            self.send_header("Set-Cookie", "track=me; Path=/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body, etag = fault.get("body", server.files[path]), fault.get("etag", server.etag)
        start, wanted = 0, self.headers.get("Range")
        if wanted and server.ranges and self.headers.get("If-Range") in (None, etag):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            shown = start + fault.get("shift", 0)
            told = f"bytes {shown}-{len(body) - 1}/{len(body)}"
            self.send_header("Content-Range", fault.get("content_range", told))
        else:
            self.send_response(200)
        if etag:
            self.send_header("ETag", etag)
        if fault.get("encoding"):
            self.send_header("Content-Encoding", fault["encoding"])
        if not fault.get("endless"):
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self._body(body[start:], fault, record)

    def _body(self, rest, fault, record):
        if fault.get("drip"):
            for byte in rest:
                self.wfile.write(bytes([byte]))
                time.sleep(fault["drip"])
        while fault.get("endless"):
            self.wfile.write(b"x" * 65536)
            record["sent"] += 65536
        rest = rest[: fault.get("cut")]
        record["sent"] += len(rest)  # before: whoever has it all may look at once
        self.wfile.write(rest)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    """`seen` has path, headers and bytes sent of every request so far."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        pass  # a client that refuses our certificate


@contextmanager
def serving(files=None, *, certificate=None):
    """A server on a free port with these files by path; TLS with a certificate file."""
    server = Server(("127.0.0.1", 0), Handler)
    server.files, server.faults, server.seen = dict(files or {}), {}, []
    server.etag, server.ranges = '"v1"', True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    scheme = "http" if certificate is None else "https"
    server.url = f"{scheme}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def serve_folder(server, folder, at="/release"):
    """Put the files of a release folder on the server."""
    for path in folder.rglob("*"):
        if path.is_file():
            server.files[f"{at}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
