"""A server on loopback that behaves like Binance's public market data: its rules, its limits, its errors, and worse.

In a test: ``with BinanceServer() as server``. Beside one:
``python -m tests.gateways.binance_server --candles ADA_BTC.csv.gz --asset ADA/BTC`` prints its URL and serves until it
is ended.
"""

import argparse
import email.utils
import gzip
import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from closeloop.gateways.candles import Candle, read_candles

INTERVALS = {"1m": 60, "3m": 180, "5m": 300, "15m": 900, "30m": 1800, "1h": 3600, "4h": 14400, "1d": 86400}
WEIGHT = 2
Rows = list[list[Any]]


@dataclass(frozen=True)
class Asked:
    """A request that arrived, with its parameters as they came, and what it was answered with."""

    at: float
    path: str
    parameters: dict[str, str]
    status: int = 0
    while_told_to_wait: bool = False


@dataclass(frozen=True)
class Fault:
    """A way of not answering properly. ``edit`` makes something else of the candles that would have been given."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    edit: Callable[[Rows], Any] | None = None
    end: str = "whole"  # or truncated, dripping, hanging, closed


def _price(value: str) -> Callable[[Rows], Any]:
    """One candle in the middle closes at ``value``, and its other prices are such that only this is wrong with it."""

    def edit(rows: Rows) -> Rows:
        rows[len(rows) // 2][4] = value
        if value.startswith("-") or value == "0.00000000":
            rows[len(rows) // 2][3] = value
        return rows

    return edit


def _swapped(rows: Rows) -> Rows:
    rows[0], rows[-1] = rows[-1], rows[0]
    return rows


def _repeated(rows: Rows) -> Rows:
    return [rows[0], *rows[:-1]]


def _moved(milliseconds: int) -> Callable[[Rows], Any]:
    def edit(rows: Rows) -> Rows:
        return [[row[0] + milliseconds, *row[1:6], row[6] + milliseconds, *row[7:]] for row in rows]

    return edit


def _one_longer(rows: Rows) -> Rows:
    rows[3][6] += 3_600_000
    return rows


def _upside_down(rows: Rows) -> Rows:
    return [[*row[:2], row[3], row[2], *row[4:]] if row[2] != row[3] else row for row in rows]


def _too_many(rows: Rows) -> Rows:
    step = rows[0][6] - rows[0][0] + 1
    return [[rows[0][0] + n * step, *rows[0][1:6], rows[0][6] + n * step, *rows[0][7:]] for n in range(1_001)]


def _numbers(rows: Rows) -> Rows:
    return [[row[0], *map(float, row[1:6]), *row[6:]] for row in rows]


_DAY = 86_400_000
FAULTS: dict[str, Fault] = {
    # Binance's own ways
    "rate limit": Fault(429, {"Retry-After": "30"}, b'{"code":-1003,"msg":"Too many requests."}'),
    "rate limit without a time": Fault(429, {}, b'{"code":-1003,"msg":"Too many requests."}'),
    "ban": Fault(418, {"Retry-After": "7200"}, b'{"code":-1003,"msg":"Way too many requests; IP banned."}'),
    "firewall": Fault(403, {}, b"<html>403</html>"),
    "heavy use": Fault(headers={"X-MBX-USED-WEIGHT-1M": "4801"}),
    "internal error": Fault(500, {}, b'{"code":-1000,"msg":"An unknown error occurred."}'),
    "timeout": Fault(408, {}, b'{"code":-1007,"msg":"Timeout waiting for response from backend server."}'),
    "bad gateway": Fault(502, {}, b"<html>502</html>"),
    "maintenance": Fault(503, {"Retry-After": "600"}, b"<html>503</html>"),
    "unknown symbol": Fault(400, {}, b'{"code":-1121,"msg":"Invalid symbol."}'),
    "illegal characters": Fault(400, {}, b'{"code":-1100,"msg":"Illegal characters found in a parameter."}'),
    "not from here": Fault(451, {}, b'{"code":0,"msg":"Service unavailable from a restricted location."}'),
    "other clock": Fault(headers={"Date": "Thu, 11 Jan 2018 12:00:00 GMT"}),
    "default limit": Fault(edit=lambda rows: rows[:500]),
    # Answers that are none
    "redirect": Fault(302, {"Location": "http://127.0.0.1:1/"}),
    "html": Fault(200, {"Content-Type": "text/html"}, b"<html><body>Welcome</body></html>"),
    "empty": Fault(body=b""),
    "null": Fault(body=b"null"),
    "object": Fault(body=b'{"code":-1121,"msg":"Invalid symbol."}'),
    "wrong encoding": Fault(headers={"Content-Encoding": "gzip"}, body=b"\x1f\x8b\x08\x00not gzip"),
    "too large": Fault(body=b"[" + b" " * 3_000_000 + b"]"),
    "truncated": Fault(end="truncated"),
    "slow": Fault(end="dripping"),
    "hang": Fault(end="hanging"),
    "close": Fault(end="closed"),
    # Answers that are wrong
    "NaN": Fault(edit=_price("NaN")),
    "NaN literal": Fault(edit=lambda rows: [[*row[:4], float("nan"), *row[5:]] for row in rows]),
    "infinity": Fault(edit=_price("Infinity")),
    "zero": Fault(edit=_price("0.00000000")),
    "negative": Fault(edit=_price("-0.00005000")),
    "close above high": Fault(edit=_price("1000000.00000000")),
    "low above high": Fault(edit=_upside_down),
    "numbers instead of texts": Fault(edit=_numbers),
    "out of order": Fault(edit=_swapped),
    "newest first": Fault(edit=lambda rows: rows[::-1]),
    "duplicated": Fault(edit=_repeated),
    "before the range": Fault(edit=_moved(-_DAY)),
    "after the range": Fault(edit=_moved(365 * _DAY)),
    "not aligned": Fault(edit=lambda rows: _moved(1_000)(rows[:1]) + rows[2:]),
    "one of another length": Fault(edit=_one_longer),
    "seconds": Fault(edit=lambda rows: [[row[0] // 1000, *row[1:6], row[6] // 1000, *row[7:]] for row in rows]),
    "other interval": Fault(edit=lambda rows: [[*row[:6], row[0] + 3_599_999, *row[7:]] for row in rows]),
    "missing fields": Fault(edit=lambda rows: [row[:11] for row in rows]),
    "candles as objects": Fault(edit=lambda rows: [{"t": row[0], "c": row[4]} for row in rows]),
    "too many": Fault(edit=_too_many),
    # Answers that are right, though less than one would like
    "gap": Fault(edit=lambda rows: rows[: len(rows) // 3] + rows[2 * len(rows) // 3 :]),
    "nothing": Fault(edit=lambda rows: []),
}


class BinanceServer:
    """Serves the candles it is given, each at every interval; what arrived is in ``asked``."""

    def __init__(self, port: int = 0, weight_limit: int = 6_000) -> None:
        self.asked: list[Asked] = []
        self.stopping = threading.Event()
        self._weight_limit = weight_limit
        self._lock = threading.Lock()
        self._minutes: dict[str, dict[int, Candle]] = {}
        self._series: dict[tuple[str, int], list[Candle]] = {}
        self._faults: list[tuple[Fault, int | None, str | None]] = []
        self._weights: dict[int, int] = {}
        self._too_many = 0
        self._wait_until = 0.0
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.binance = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "BinanceServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop; from then on connections are refused."""
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, asset: str, candles: Iterable[Candle], interval_seconds: int) -> None:
        """Trade an asset. Within an interval the price stays where it opened until the last minute brings its close."""
        self._series.clear()
        minutes = self._minutes.setdefault(asset.replace("/", ""), {})
        for found in candles:
            start, last = int(found.start.timestamp()), interval_seconds // 60 - 1
            for minute in range(last + 1):
                minutes[start + 60 * minute] = Candle(
                    datetime.fromtimestamp(start + 60 * minute, UTC),
                    _shown(found.open),
                    _shown(
                        found.high if minute == 0 else max(found.open, found.close) if minute == last else found.open
                    ),
                    _shown(
                        found.low if minute == 0 else min(found.open, found.close) if minute == last else found.open
                    ),
                    _shown(found.close if minute == last else found.open),
                    _shown((found.volume or Decimal(0)) / (last + 1)),
                )

    def add_file(self, asset: str, path: Path, interval_seconds: int = 300) -> None:
        """Trade an asset as a candle file tells it."""
        with path.open("rb") as file:
            rows = read_candles(file, interval_seconds, datetime.now(UTC))
            self.add(asset, [row for row in rows if isinstance(row, Candle)], interval_seconds)

    def candles(self, asset: str, interval_seconds: int) -> list[Candle]:
        """What it serves of an asset when nothing is wrong."""
        key = (asset.replace("/", ""), interval_seconds)
        if key in self._series:
            return self._series[key]
        series: dict[int, Candle] = {}
        for start, minute in sorted(self._minutes.get(key[0], {}).items()):
            slot = start - start % interval_seconds
            so_far = series.get(slot)
            series[slot] = (
                replace(minute, start=datetime.fromtimestamp(slot, UTC))
                if so_far is None
                else replace(
                    so_far,
                    high=max(so_far.high, minute.high),
                    low=min(so_far.low, minute.low),
                    close=minute.close,
                    volume=(so_far.volume or Decimal(0)) + (minute.volume or Decimal(0)),
                )
            )
        return self._series.setdefault(key, list(series.values()))

    def fail(self, fault: str | Fault, times: int | None = None, asset: str | None = None, **headers: str) -> None:
        """Answer with a fault, of FAULTS or another: the next ``times`` requests or all (null), of any asset or of one.

        Headers replace the fault's: ``fail("rate limit", Retry_After="1")``.
        """
        fault = FAULTS[fault] if isinstance(fault, str) else fault
        changed = dict(fault.headers) | {key.replace("_", "-"): value for key, value in headers.items()}
        with self._lock:
            self._faults.append((replace(fault, headers=changed), times, asset and asset.replace("/", "")))

    def behave(self) -> None:
        """No faults from here on, and no wait is asked for."""
        with self._lock:
            self._faults.clear()
            self._wait_until = 0.0

    @property
    def impatient(self) -> list[Asked]:
        """Requests that came while a Retry-After was in force."""
        return [asked for asked in self.asked if asked.while_told_to_wait]

    def answer(self, target: str) -> Fault:
        """What a request is answered with, as it would be sent."""
        parts = urlsplit(target)
        parameters = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        with self._lock:
            now = time.time()
            asked = Asked(now, parts.path, parameters, while_told_to_wait=now < self._wait_until)
            fault = self._take_fault(parameters.get("symbol"))
            answer = self._limited(now) or _refusal(parts.path, parameters, self._minutes)
            if fault is not None and (fault.body is not None or fault.status != 200):
                answer = fault
            elif answer is None:
                fault = fault or Fault()
                rows = self._rows(parameters)
                made = fault.edit(rows) if fault.edit is not None and rows else rows
                answer = replace(fault, body=json.dumps(made).encode())
            if (seconds := answer.headers.get("Retry-After", "")).isdigit():
                self._wait_until = max(self._wait_until, now + int(seconds))
            self.asked.append(replace(asked, status=answer.status))
            weight = {"X-MBX-USED-WEIGHT-1M": str(self._weights[int(now // 60)])}
            return replace(answer, headers=weight | dict(answer.headers))

    def _take_fault(self, symbol: str | None) -> Fault | None:
        for at, (fault, times, only) in enumerate(self._faults):
            if only is None or only == symbol:
                if times == 1:
                    del self._faults[at]
                elif times is not None:
                    self._faults[at] = (fault, times - 1, only)
                return fault
        return None

    def _limited(self, now: float) -> Fault | None:
        minute = int(now // 60)
        used = self._weights[minute] = self._weights.get(minute, 0) + WEIGHT
        if used <= self._weight_limit:
            return None
        self._too_many += 1
        if self._too_many > 10:
            return FAULTS["ban"]
        return replace(FAULTS["rate limit"], headers={"Retry-After": str(60 - int(now) % 60)})

    def _rows(self, parameters: Mapping[str, str]) -> Rows:
        step = INTERVALS[parameters["interval"]] * 1_000
        first, last = int(parameters.get("startTime", 0)), int(parameters.get("endTime", time.time() * 1_000))
        limit = int(parameters.get("limit", 500))
        found = [
            [start, *map(_plain, prices), start + step - 1, "0.00000000", 1, "0.00000000", "0.00000000", "0"]
            for start, prices in (
                (int(c.start.timestamp()) * 1_000, (c.open, c.high, c.low, c.close, c.volume or Decimal(0)))
                for c in self.candles(parameters["symbol"], step // 1_000)
            )
            if first <= start <= min(last, time.time() * 1_000)
        ]
        return found[:limit] if "startTime" in parameters else found[-limit:]


def _refusal(path: str, parameters: Mapping[str, str], traded: Mapping[str, Any]) -> Fault | None:
    """What Binance says to a request that is wrong."""

    def refused(code: int, message: str) -> Fault:
        return Fault(400, {}, json.dumps({"code": code, "msg": message}).encode())

    if path != "/api/v3/klines":
        return Fault(404, {}, b"<html>404</html>")
    for name in ("symbol", "interval"):
        if not parameters.get(name):
            return refused(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
    if not re.fullmatch(r"[A-Z0-9_.-]{1,20}", parameters["symbol"]):
        return refused(-1100, "Illegal characters found in parameter 'symbol'; legal range is '^[A-Z0-9-_.]{1,20}$'.")
    for name in ("startTime", "endTime", "limit"):
        if not re.fullmatch(r"[0-9]{1,20}", parameters.get(name, "0")):
            return refused(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    if parameters["interval"] not in INTERVALS:
        return refused(-1120, "Invalid interval.")
    if int(parameters.get("limit", 500)) > 1000:
        return refused(-1130, "Data sent for parameter 'limit' is not valid.")
    if parameters["symbol"] not in traded:
        return refused(-1121, "Invalid symbol.")
    return None


def _shown(number: Decimal) -> Decimal:
    """With eight decimals, as Binance has them."""
    return number.quantize(Decimal("1e-8"))


def _plain(number: Decimal) -> str:
    return format(number, "f")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    binance: BinanceServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is nothing to tell about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        binance = self.server.binance
        answer = binance.answer(self.path)
        body, encoding = answer.body or b"", ""
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            body, encoding = gzip.compress(body, 1), "gzip"
        if answer.end in ("closed", "hanging"):
            if answer.end == "hanging":
                binance.stopping.wait(120)
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        headers = {"Content-Type": "application/json;charset=UTF-8", "Content-Length": str(len(body))}
        headers |= {"Content-Encoding": encoding}
        for name, value in (headers | {"Date": email.utils.formatdate(usegmt=True)} | dict(answer.headers)).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if answer.end == "truncated":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif answer.end == "dripping":
            for at in range(len(body)):
                self.wfile.write(body[at : at + 1])
                self.wfile.flush()
                if binance.stopping.wait(0.1):
                    break
            self.close_connection = True
        else:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the requests are in ``asked``."""


def main() -> None:
    parser = argparse.ArgumentParser(description="A server on loopback that behaves like Binance.")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--candles", type=Path, action="append", default=[], help="candle file, one for each --asset")
    parser.add_argument("--asset", action="append", default=[])
    parser.add_argument("--interval-seconds", type=int, default=300)
    parser.add_argument("--fault", choices=FAULTS, help="answer every request with it")
    arguments = parser.parse_args()
    if len(arguments.candles) != len(arguments.asset):
        parser.error("as many --candles as --asset are needed")
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # to be waited for below; threads inherit it
    with BinanceServer(arguments.port) as server:
        for asset, path in zip(arguments.asset, arguments.candles, strict=True):
            server.add_file(asset, path, arguments.interval_seconds)
        if arguments.fault:
            server.fail(arguments.fault)
        print(server.url, flush=True)
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
