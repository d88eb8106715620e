"""A server on loopback that behaves like CoinGecko's public market data, and worse.

In a test: ``with CoinGeckoServer() as server``; ``server.say(btc=52.1, usdt=4.2)`` sets what it says, ``fail`` how it
does not answer.
"""

import email.utils
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Asked:
    """A request that arrived: when, its path, parameters and headers (in lower case)."""

    at: float
    path: str
    parameters: dict[str, str]
    headers: dict[str, str]
    while_told_to_wait: bool


@dataclass(frozen=True)
class Fault:
    """A way of not answering properly."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    end: str = "whole"  # or truncated, dripping, hanging, closed


FAULTS: dict[str, Fault] = {
    "rate limit": Fault(429, {"Retry-After": "30"}, b'{"status":{"error_code":429}}'),
    "rate limit without a time": Fault(429, {}, b'{"status":{"error_code":429}}'),
    "firewall": Fault(403, {}, b"<html>403</html>"),
    "internal error": Fault(500, {}, b'{"error":"oops"}'),
    "bad gateway": Fault(502, {}, b"<html>502</html>"),
    "maintenance": Fault(503, {"Retry-After": "600"}, b"<html>503</html>"),
    "timeout": Fault(408, {}, b""),
    "not found": Fault(404, {}, b'{"error":"coin not found"}'),
    "wrong key": Fault(401, {}, b'{"status":{"error_code":10002}}'),
    "redirect": Fault(302, {"Location": "http://127.0.0.1:1/"}),
    "html": Fault(200, {"Content-Type": "text/html"}, b"<html><body>Welcome</body></html>"),
    "empty": Fault(),
    "null": Fault(body=b"null"),
    "list": Fault(body=b"[]"),
    "no data": Fault(body=b"{}"),
    "NaN": Fault(body=b'{"data":{"market_cap_percentage":{"btc":NaN},"updated_at":1700000000}}'),
    "too large": Fault(body=b'{"data":"' + b" " * 3_000_000 + b'"}'),
    "wrong encoding": Fault(headers={"Content-Encoding": "gzip"}, body=b"\x1f\x8b\x08\x00not gzip"),
    "truncated": Fault(body=b'{"data":{"market_cap_percentage":{"btc":52.1', end="truncated"),
    "slow": Fault(body=b'{"data":' + b" " * 1_000 + b"{}}", end="dripping"),
    "hang": Fault(end="hanging"),
    "close": Fault(end="closed"),
}


class CoinGeckoServer:
    """What arrived is in ``asked``; ``data`` is what /global says, which a test may change."""

    def __init__(self, port: int = 0) -> None:
        self.asked: list[Asked] = []
        self.stopping = threading.Event()
        self.data: dict[str, Any] = {}
        self.tether: Any = {"usd": 1.0, "usd_market_cap": 150e9}
        self.say(btc=52.125, usdt=4.25)
        self._fault: Fault | None = None
        self._fault_path: str | None = None
        self._wait_until = 0.0
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.gecko = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/api/v3"

    def __enter__(self) -> "CoinGeckoServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop; from then on connections are refused."""
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def say(self, *, btc: Any, usdt: Any = None, updated_at: Any = None, total: Any = 3e12) -> None:
        """What /global says; a share that is null is left out. ``updated_at`` null: now."""
        shares = {name: share for name, share in (("btc", btc), ("eth", 12.5), ("usdt", usdt)) if share is not None}
        at = int(time.time()) if updated_at is None else updated_at
        self.data = {
            "active_cryptocurrencies": 17_000,
            "total_market_cap": {"usd": total},
            "market_cap_percentage": shares,
            "updated_at": at,
        }

    def fail(self, fault: str | Fault, path: str | None = None, **headers: str) -> None:
        """Answer every request, or those of a path, with a fault; headers replace the fault's."""
        found = FAULTS[fault] if isinstance(fault, str) else fault
        changed = dict(found.headers) | {key.replace("_", "-"): value for key, value in headers.items()}
        self._fault, self._fault_path = Fault(found.status, changed, found.body, found.end), path

    def behave(self) -> None:
        """No faults from here on."""
        self._fault, self._wait_until = None, 0.0

    @property
    def impatient(self) -> list[Asked]:
        """Requests that came while a Retry-After was in force."""
        return [asked for asked in self.asked if asked.while_told_to_wait]

    def answer(self, target: str, headers: Mapping[str, str]) -> Fault:
        """What a request is answered with."""
        parts = urlsplit(target)
        parameters = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        path = parts.path.removeprefix("/api/v3")
        now = time.time()
        self.asked.append(
            Asked(now, path, parameters, {k.lower(): v for k, v in headers.items()}, now < self._wait_until)
        )
        fault = self._fault
        if fault is not None and self._fault_path in (None, path):
            if (seconds := fault.headers.get("Retry-After", "")).isdigit():
                self._wait_until = max(self._wait_until, now + int(seconds))
            return fault
        if path == "/global":
            return Fault(body=json.dumps({"data": self.data}).encode())
        if path == "/simple/price" and parameters.get("ids") == "tether":
            return Fault(body=json.dumps({"tether": self.tether}).encode())
        return FAULTS["not found"]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    gecko: CoinGeckoServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is nothing to tell about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        gecko = self.server.gecko
        answer = gecko.answer(self.path, dict(self.headers.items()))
        if answer.end in ("closed", "hanging"):
            if answer.end == "hanging":
                gecko.stopping.wait(120)
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        length = len(answer.body) * (2 if answer.end == "truncated" else 1)
        headers = {"Content-Type": "application/json", "Content-Length": str(length)}
        for name, value in (headers | {"Date": email.utils.formatdate(usegmt=True)} | dict(answer.headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if answer.end == "dripping":
            for at in range(len(answer.body)):
                self.wfile.write(answer.body[at : at + 1])
                self.wfile.flush()
                if gecko.stopping.wait(0.1):
                    break
            self.close_connection = True
            return
        self.wfile.write(answer.body)
        if answer.end == "truncated":
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the requests are in ``asked``."""
