"""Candles of Binance's public market data (GET /api/v3/klines, no key): every answer is checked before it is used.

One page is one request, and the caller decides about retries. Binance's rules for callers are kept: no request until
the time for which it asked to wait is over, nor for a minute after more than 80 % of a minute's allowance was used.
https://developers.binance.com/docs/binance-spot-api-docs/rest-api/market-data-endpoints
"""

import asyncio
import math
import re
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from pydantic_core import from_json

from closeloop.gateways.candles import Candle, candle
from closeloop.gateways.sources import (
    SourceNonsense,
    SourceRefused,
    SourceUnavailable,
    UnknownSymbol,
    number,
    retry_after,
    server_time,
)

CANDLES_PER_ANSWER = 1_000
INTERVALS = {60: "1m", 180: "3m", 300: "5m", 900: "15m", 1800: "30m"}
_CANDLES_WITHOUT_A_LIMIT = 500  # how many an answer holds from a server that ignores the parameter ``limit``

_CONNECT_SECONDS = 3.0
_MAX_ANSWER_BYTES = 2_000_000  # a full answer has about 180,000

_WEIGHT_A_MINUTE = 6_000  # what Binance allows an address to use; a request of candles weighs 2
_WEIGHT_SHARE = 0.8  # of that; above it, no request is made for a minute
# By status, how long to wait where the answer does not say: Binance counts by the minute (429); the shortest ban lasts
# two minutes (418, and 403 of its firewall).
_PAUSE_SECONDS = {429: 60.0, 418: 120.0, 403: 120.0}
_WORDS = {
    429: "too many requests in a minute",
    418: "this address is banned for a while, for too many requests",
    403: "its firewall lets this address wait",
}
_NOT_FROM_HERE = (
    "Binance does not serve this location (451): set CLOSELOOP_BINANCE_URL to a server like it that does, such as "
    "https://data-api.binance.vision, or import prices"
)

# A candle that ended less than this ago is not used: it may still change, or not be there yet.
SETTLED_AFTER = timedelta(seconds=10)
# One of Binance's servers may lag behind at the end of the series: that it has no candle proves that there is none only
# this long after the candle would have ended.
MISSING_AFTER = timedelta(minutes=15)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ASSET = re.compile(r"[A-Za-z0-9]{1,20}(?:/[A-Za-z0-9]{1,20})?")
_FIELDS_A_CANDLE = 12
_UNKNOWN_SYMBOL = -1121


@dataclass(frozen=True)
class Page:
    """What one request asks for: the candles of an interval that end from ``first_end`` to ``last_end``, inclusive."""

    interval_seconds: int
    first_end: datetime
    last_end: datetime


@dataclass(frozen=True)
class Klines:
    """What one request gave: candles in order, and ``covered``.

    ``covered`` are the ranges (first end, last end, inclusive) in which the source has no candles but these; none where
    nothing is certain. An answer without any candle proves nothing, nor does the end of a series that may lag behind,
    nor the time around a candle that could not be used.
    """

    interval_seconds: int
    candles: tuple[Candle, ...]
    covered: tuple[tuple[datetime, datetime], ...]


def pages(first: datetime, last: datetime) -> list[Page]:
    """The requests for every candle that ends from ``first`` to ``last``, inclusive: one, unless that is too many.

    The interval is the finest of at most 30 minutes whose candles fit in one request; 20.8 days of 30 minutes do.

    >>> [(p.interval_seconds, str(p.first_end)) for p in pages(datetime(2018, 1, 11, 10, 1, tzinfo=UTC),
    ...                                                        datetime(2018, 1, 12, 16, 0, tzinfo=UTC))]
    [(180, '2018-01-11 10:03:00+00:00')]
    """
    chosen = next(
        (s for s in INTERVALS if _last_slot(last, s) - _first_slot(first, s) < CANDLES_PER_ANSWER), max(INTERVALS)
    )
    slots = range(_first_slot(first, chosen), _last_slot(last, chosen) + 1)
    return [
        Page(chosen, _instant(part[0] * chosen), _instant(part[-1] * chosen))
        for part in (slots[at : at + CANDLES_PER_ANSWER] for at in range(0, len(slots), CANDLES_PER_ANSWER))
    ]


class Binance:
    """Binance, or a server like it. One object a process: it remembers until when it was asked to wait."""

    def __init__(self, base_url: str, timeout_seconds: float = 10.0) -> None:
        """``timeout_seconds`` bounds a whole request, however slowly its answer trickles in."""
        self._url = httpx.URL(base_url.rstrip("/") + "/api/v3/klines")
        self._timeout_seconds = timeout_seconds
        self._timeout = httpx.Timeout(timeout_seconds, connect=min(_CONNECT_SECONDS, timeout_seconds))
        self._tls = httpx.create_ssl_context()
        self._paused_until = -math.inf  # of the monotonic clock
        self._one_at_a_time = asyncio.Lock()  # what an answer says of waiting is known before the next request

    async def candles(self, asset: str, page: Page, now: datetime) -> Klines:
        """The candles of a page that have ended by ``now`` (and by the source's own clock): one request, or none.

        Raises SourceUnavailable, SourceNonsense, SourceRefused, and of these UnknownSymbol if there is no such asset.
        """
        if not _ASSET.fullmatch(asset):
            raise UnknownSymbol("Binance has no such asset: a pair such as ADA/BTC is needed")
        step = timedelta(seconds=page.interval_seconds)
        parameters: dict[str, str | int] = {
            "symbol": asset.replace("/", "").upper(),
            "interval": INTERVALS[page.interval_seconds],
            "startTime": _milliseconds(page.first_end - step),
            "endTime": _milliseconds(page.last_end - step),
            "limit": CANDLES_PER_ANSWER,
        }
        async with self._one_at_a_time:
            response, body = await self._get(parameters)
        rows, unusable = _rows(body, page)
        settled = min(now, server_time(response) or now) - SETTLED_AFTER
        given = tuple(row for row in rows if row.start + step <= settled)
        certain_until = settled + SETTLED_AFTER - MISSING_AFTER
        covered = _covered(page, given, len(rows) + len(unusable), certain_until)
        return Klines(page.interval_seconds, given, _without(covered, given, unusable, step))

    async def _get(self, parameters: dict[str, str | int]) -> tuple[httpx.Response, bytes]:
        if (left := self._paused_until - time.monotonic()) > 0:
            raise SourceUnavailable("Binance asked to wait before the next request", left, for_all=True)
        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                # A client a request: there are few, and a connection kept open is one that may be dead.
                httpx.AsyncClient(verify=self._tls, timeout=self._timeout) as http,
                http.stream("GET", self._url, params=parameters, headers={"Accept-Encoding": "identity"}) as response,
            ):
                self._heed(response)
                body = bytearray()
                async for part in response.aiter_raw():
                    body += part
                    if len(body) > _MAX_ANSWER_BYTES:
                        raise SourceNonsense(f"Binance's answer is larger than {_MAX_ANSWER_BYTES // 1_000_000} MB")
        except TimeoutError:
            raise SourceUnavailable(f"Binance did not answer within {self._timeout_seconds:g} s") from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise SourceUnavailable(f"Binance did not answer ({type(error).__name__})", for_all=True) from None
        except httpx.TransportError as error:
            raise SourceUnavailable(f"Binance did not answer ({type(error).__name__})") from None
        _check_status(response, bytes(body))
        return response, bytes(body)

    def _heed(self, response: httpx.Response) -> None:
        """Remember until when to make no request, before the body is read. Raises SourceUnavailable."""
        status = response.status_code
        unavailable = status in _PAUSE_SECONDS or status == 408 or status >= 500
        pause = 0.0
        if unavailable:
            pause = retry_after(response) or _PAUSE_SECONDS.get(status, 0.0)
        elif number(response.headers.get("X-MBX-USED-WEIGHT-1M", "")) > _WEIGHT_SHARE * _WEIGHT_A_MINUTE:
            pause = 60.0
        self._paused_until = max(self._paused_until, time.monotonic() + pause)
        if unavailable:
            what = _WORDS.get(status)
            raise SourceUnavailable(
                f"Binance answers {status}" + (f": {what}" if what else ""), pause or None, for_all=pause > 0
            )
        if status == 451:
            raise SourceUnavailable(_NOT_FROM_HERE, for_all=True)


def _check_status(response: httpx.Response, body: bytes) -> None:
    if response.status_code == 200:
        return
    try:
        answer = from_json(body)
    except ValueError:
        answer = None
    code = answer.get("code") if isinstance(answer, dict) else None
    if response.status_code == 400 and code == _UNKNOWN_SYMBOL:
        raise UnknownSymbol("Binance has no such asset")
    code_text = f", code {code}" if isinstance(code, int) and abs(code) < 1_000_000 else ""
    raise SourceRefused(f"Binance refuses the request ({response.status_code}{code_text})")


def _rows(body: bytes, page: Page) -> tuple[list[Candle], list[datetime]]:
    """The candles of an answer, and starts of those that are not of its interval: these cost only themselves.

    Raises SourceNonsense: an answer that is wrong in another way, or mostly in this one, is wrong.
    """
    try:
        rows = from_json(body, allow_inf_nan=False)
    except ValueError:
        raise SourceNonsense("Binance's answer is not JSON") from None
    if not isinstance(rows, list):
        raise SourceNonsense("Binance's answer is not a list of candles")
    step = page.interval_seconds * 1_000
    earliest, latest = _milliseconds(page.first_end) - step, _milliseconds(page.last_end) - step
    before = earliest - 1
    found: list[Candle] = []
    unusable: list[datetime] = []
    for row in rows:
        start, end = _times(row)
        if not max(before + 1, earliest - step) <= start < latest + step:
            raise SourceNonsense("Binance's answer has candles that were not asked for, or out of order, or twice")
        before = start
        if start % step or not start <= end < start + step:
            unusable.append(_instant(start // 1_000))
            continue
        if not earliest <= start <= latest:
            raise SourceNonsense("Binance's answer has candles that were not asked for, or out of order, or twice")
        try:
            found.append(candle(_instant(start // 1_000), *(_text(value) for value in row[1:6])))
        except ValueError as error:
            raise SourceNonsense(f"Binance's answer has a candle with impossible numbers ({error})") from None
    if len(unusable) > len(found):
        raise SourceNonsense("Binance's answer has candles that are not of the interval")
    return found, unusable


def _times(row: Any) -> tuple[int, int]:
    """When a row's candle starts and ends (ms). Raises SourceNonsense."""
    if not isinstance(row, list) or len(row) != _FIELDS_A_CANDLE:
        raise SourceNonsense(f"Binance's answer has a candle that is not a list of {_FIELDS_A_CANDLE} values")
    start, end = row[0], row[6]
    if type(start) is not int or type(end) is not int:
        raise SourceNonsense("Binance's answer has a candle whose times are no numbers")
    return start, end


def _without(
    covered: tuple[datetime, datetime] | None,
    given: tuple[Candle, ...],
    unusable: Sequence[datetime],
    step: timedelta,
) -> tuple[tuple[datetime, datetime], ...]:
    """What is covered beside candles that could not be used: up to the candle before one, and from the one after."""
    if covered is None:
        return ()
    first, last = covered
    ends = [one.start + step for one in given]
    ranges = []
    for start in unusable:
        at = bisect_right(ends, start + step)
        if at > 0 and first <= ends[at - 1]:
            ranges.append((first, ends[at - 1]))
        if at == len(ends):
            return tuple(ranges)
        first = max(first, ends[at])
    return (*ranges, (first, last)) if first <= last else tuple(ranges)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("they must be texts")
    return value


def _covered(
    page: Page, given: tuple[Candle, ...], number_of_rows: int, certain_until: datetime
) -> tuple[datetime, datetime] | None:
    """The range of ends in which a candle that was not given does not exist.

    ``certain_until``: up to this instant, a candle that an answer does not hold does not exist.
    """
    step = timedelta(seconds=page.interval_seconds)
    if not given:
        return None
    last = given[-1].start + step
    full = number_of_rows in (_CANDLES_WITHOUT_A_LIMIT, CANDLES_PER_ANSWER)
    if not full:  # a full answer says nothing about what follows it
        last_certain = _instant(_last_slot(certain_until, page.interval_seconds) * page.interval_seconds)
        last = max(last, min(page.last_end, last_certain))
    return page.first_end, last


def _first_slot(instant: datetime, interval_seconds: int) -> int:
    return -((_EPOCH - instant) // timedelta(seconds=interval_seconds))


def _last_slot(instant: datetime, interval_seconds: int) -> int:
    return (instant - _EPOCH) // timedelta(seconds=interval_seconds)


def _milliseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(milliseconds=1)


def _instant(seconds: int) -> datetime:
    return _EPOCH + timedelta(seconds=seconds)
