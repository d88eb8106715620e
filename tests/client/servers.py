"""Servers on loopback in closeloop's place: one that records, and one that behaves badly in a chosen way."""

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Recorder:
    """Takes messages in like closeloop: each id once. ``answer`` may replace an answer: (status, type, body)."""

    def __init__(self) -> None:
        self.messages: dict[tuple[str, str], Any] = {}
        self.accepted = 0
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.reads: dict[str, Any] = {}
        self.answer: Callable[[str, str, Any], tuple[int, str, Any] | None] = lambda method, path, body: None
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self._do("GET", None)

            def do_POST(self) -> None:
                self._do("POST", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _do(self, method: str, body: Any) -> None:
                recorder.requests.append((method, self.path, dict(self.headers)))
                status, kind, answer = recorder.answer(method, self.path, body) or recorder.take(self, body)
                raw = b"" if status == 304 else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(raw)))
                if method == "GET" and status in (200, 304):
                    self.send_header("ETag", f'"{hash(json.dumps(answer))}"')
                self.end_headers()
                self.wfile.write(raw)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def take(self, handler: BaseHTTPRequestHandler, body: Any) -> tuple[int, str, Any]:
        plain = "application/json"
        path = handler.path.split("?")[0]
        if handler.command == "GET":
            if path not in self.reads:
                return 404, "application/problem+json", {"status": 404}
            same = handler.headers.get("If-None-Match") == f'"{hash(json.dumps(self.reads[path]))}"'
            return (304 if same else 200), plain, self.reads[path]
        if path == "/v1/batch":
            return 202, plain, {"results": [self.receipt(i["kind"], i["id"], i["message"]) for i in body]}
        return 202, plain, self.receipt(path.rsplit("/", 1)[1], handler.headers["Idempotency-Key"], body)

    def receipt(self, kind: str, name: str, message: Any) -> dict[str, str]:
        known = (kind, name) in self.messages
        self.messages[kind, name] = message
        self.accepted += not known
        return {"id": name, "kind": kind, "status": "duplicate" if known else "accepted", "received_at": "now"}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def nasty(mode: str) -> tuple[str, socket.socket]:
    """The URL of a server that serves each connection badly, and its socket."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve(conn: socket.socket) -> None:
        with conn:
            try:
                if mode == "reset":
                    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                conn.recv(65536)
                _badly(mode, conn)
            except OSError:
                pass

    def listen() -> None:
        while True:
            try:
                conn = server.accept()[0]
            except OSError:
                return
            threading.Thread(target=serve, args=(conn,), daemon=True).start()

    threading.Thread(target=listen, daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}", server


def _badly(mode: str, conn: socket.socket) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
    if mode == "hang":
        time.sleep(30)
    elif mode == "drip":
        for byte in head + b"999\r\n\r\n" + b" " * 999:
            conn.send(bytes([byte]))
            time.sleep(0.2)
    elif mode == "garbage":
        conn.sendall(os.urandom(5_000))
    elif mode == "endless":
        conn.sendall(head + b"1073741824\r\n\r\n")
        for _ in range(16_384):
            conn.sendall(b" " * 65_536)
    elif mode == "cut":
        conn.sendall(head + b"999\r\n\r\n{")
    elif mode == "lie":
        conn.sendall(b'HTTP/1.1 202 Accepted\r\nContent-Length: 23\r\n\r\n{"results": "all fine"}')
    elif mode == "redirect":
        conn.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n")
    elif mode == "500":
        conn.sendall(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")
    elif mode == "429":
        conn.sendall(b"HTTP/1.1 429 Slow\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n")
