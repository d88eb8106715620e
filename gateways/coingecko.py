"""Dominance by CoinGecko's public market data (GET /global): every answer is checked before it is used.

CoinGecko computes dominance anew about every ten minutes and says when it did (``updated_at``). One question is one
request, or two where the answer leaves USDT out. No request is made until the time for which CoinGecko asked to wait is
over. https://docs.coingecko.com/reference/crypto-global
"""

import asyncio
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic_core import from_json

from closeloop.gateways.sources import SourceNonsense, SourceRefused, SourceUnavailable, retry_after

_CONNECT_SECONDS = 3.0
_MAX_ANSWER_BYTES = 1_000_000  # /global has about 5,000
# By status, how long to wait where the answer does not say: CoinGecko counts by the minute.
_PAUSE_SECONDS = {429: 60.0, 403: 120.0}
_WORDS = {429: "too many requests in a minute", 403: "its firewall lets this address wait"}
_LARGEST = 1e30  # USD; no number of theirs is larger
_CLOCK_DIFFERENCE = timedelta(minutes=5)
_EARLIEST = datetime(2013, 4, 28, tzinfo=UTC)  # nobody has market capitalisations of before


@dataclass(frozen=True)
class Dominance:
    """Shares of all market capitalisation (percent), as of ``updated_at``; null where CoinGecko has none that can be.

    ``without``: by name, why there is none.
    """

    updated_at: datetime
    btc: float | None
    usdt: float | None
    without: dict[str, str]


class CoinGecko:
    """CoinGecko, or a server like it. One object a process: it remembers until when it was asked to wait."""

    def __init__(self, base_url: str, key: str | None = None, timeout_seconds: float = 10.0) -> None:
        """``key``: of the demo plan, or of a paid one where the server is theirs; it is in no message."""
        self._base = base_url.rstrip("/")
        paid = (urlsplit(base_url).hostname or "").startswith("pro-api.")
        self._headers = {"Accept-Encoding": "identity"}
        if key:
            self._headers["x-cg-pro-api-key" if paid else "x-cg-demo-api-key"] = key
        self._timeout_seconds = timeout_seconds
        self._timeout = httpx.Timeout(timeout_seconds, connect=min(_CONNECT_SECONDS, timeout_seconds))
        self._tls = httpx.create_ssl_context()
        self._paused_until = -math.inf  # of the monotonic clock

    async def dominance(self, now: datetime) -> Dominance:
        """What CoinGecko says now. Raises SourceUnavailable, SourceNonsense, SourceRefused."""
        data = _part(await self._get("/global"), "data")
        updated_at = _instant(data.get("updated_at"), now)
        shares = _part(data, "market_cap_percentage")
        without: dict[str, str] = {}
        btc = _share(shares.get("btc"), "btc", without)
        usdt = _share(shares.get("usdt"), "usdt", without)
        if shares.get("usdt") is None:
            try:
                usdt = await self._tether(data)
                without.pop("usdt")
            except (SourceUnavailable, SourceNonsense, SourceRefused) as error:
                without["usdt"] = f"it is not among the shares, and {error}"
        return Dominance(updated_at, btc, usdt, without)

    async def _tether(self, data: dict[str, Any]) -> float:
        """Tether's share: its market capitalisation of all (percent)."""
        total = _positive(_part(data, "total_market_cap").get("usd"))
        answer = await self._get(
            "/simple/price", {"ids": "tether", "vs_currencies": "usd", "include_market_cap": "true"}
        )
        tether = _positive(_part(answer, "tether").get("usd_market_cap"))
        if total is None or tether is None or tether >= total:
            raise SourceNonsense("CoinGecko's market capitalisations cannot be right")
        return 100.0 * tether / total

    async def _get(self, path: str, parameters: dict[str, str] | None = None) -> dict[str, Any]:
        if (left := self._paused_until - time.monotonic()) > 0:
            raise SourceUnavailable("CoinGecko asked to wait before the next request", left, for_all=True)
        body = bytearray()
        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                httpx.AsyncClient(verify=self._tls, timeout=self._timeout) as http,
                http.stream("GET", self._base + path, params=parameters, headers=self._headers) as response,
            ):
                self._heed(response)
                async for part in response.aiter_raw():
                    body += part
                    if len(body) > _MAX_ANSWER_BYTES:
                        raise SourceNonsense(f"CoinGecko's answer is larger than {_MAX_ANSWER_BYTES // 1_000_000} MB")
        except TimeoutError:
            raise SourceUnavailable(f"CoinGecko did not answer within {self._timeout_seconds:g} s") from None
        except httpx.TransportError as error:
            raise SourceUnavailable(f"CoinGecko did not answer ({type(error).__name__})") from None
        try:
            answer = from_json(bytes(body), allow_inf_nan=False)
        except ValueError:
            raise SourceNonsense("CoinGecko's answer is not JSON") from None
        if not isinstance(answer, dict):
            raise SourceNonsense("CoinGecko's answer is not an object")
        return answer

    def _heed(self, response: httpx.Response) -> None:
        """Remember until when to make no request, before the body is read. Raises unless the answer is one."""
        status = response.status_code
        if status in _PAUSE_SECONDS or status == 408 or status >= 500:
            pause = retry_after(response) or _PAUSE_SECONDS.get(status, 0.0)
            self._paused_until = max(self._paused_until, time.monotonic() + pause)
            what = _WORDS.get(status)
            raise SourceUnavailable(f"CoinGecko answers {status}" + (f": {what}" if what else ""), pause or None)
        if status == 401:
            raise SourceRefused("CoinGecko refuses the key (401): is CLOSELOOP_COINGECKO_API_KEY right for its URL?")
        if status != 200:
            raise SourceRefused(f"CoinGecko refuses the request ({status})")


def _part(answer: dict[str, Any], name: str) -> dict[str, Any]:
    part = answer.get(name)
    if not isinstance(part, dict):
        raise SourceNonsense(f"CoinGecko's answer has no {name}")
    return part


def _instant(value: Any, now: datetime) -> datetime:
    """When the source computed what it says. Raises SourceNonsense."""
    if type(value) is int and _EARLIEST.timestamp() <= value <= (now + _CLOCK_DIFFERENCE).timestamp():
        return datetime.fromtimestamp(value, UTC)
    raise SourceNonsense("CoinGecko's answer does not say when it was computed, or says something impossible")


def _share(value: Any, name: str, without: dict[str, str]) -> float | None:
    share = _positive(value)
    if share is None or share >= 100.0:
        without[name] = "there is no such share" if value is None else "its share cannot be right"
        return None
    return share


def _positive(value: Any) -> float | None:
    """A finite number above 0, or null."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _LARGEST:
        return None
    return float(value)
