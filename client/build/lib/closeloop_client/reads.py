"""What an engine reads: answered from memory at once, refreshed behind its back."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, NamedTuple
from urllib.parse import urlencode

from closeloop_client.breaker import Breaker
from closeloop_client.transport import Transport, Unanswered

MOST_KEYS = 10_000
RETRY_SECONDS = 0.25
FALLBACK_PARAMS = {"discovery_threshold": 0.75, "confidence_multiplier": 0.8, "position_size_limit": 0.02}
FALLBACK_INSIGHTS: Mapping[str, Any] = {
    "recommendation": "Use conservative parameters",
    "confidence": 0.5,
    "reason": "Learning system unavailable",
}


class Answer(NamedTuple):
    """What was asked for. ``fallback``: it is not closeloop's answer but the conservative one. ``age`` in seconds,
    None where closeloop never answered. ``arm`` and ``version``: of the parameters, where closeloop said so."""

    value: Any
    fallback: bool
    age: float | None = None
    arm: str | None = None
    version: int | None = None


class Question(NamedTuple):
    """What is asked for: a path with its query, what of the answer is the value, and what stands in for it."""

    path: str
    value_of: Callable[[Any], Any]
    fallback: Any


@dataclass
class _Known:
    value: Any = None
    etag: str | None = None
    at: float | None = None
    asked: bool = False
    next_at: float = 0.0
    arm: str | None = None
    version: int | None = None


class Reads:
    """Answers by what was asked."""

    def __init__(self, transport: Transport | None, breaker: Breaker, max_age: float) -> None:
        self._transport = transport
        self._breaker = breaker
        self._max_age = max_age
        self._known: OrderedDict[tuple[str, ...], _Known] = OrderedDict()
        self._queue: SimpleQueue[tuple[tuple[str, ...], Question] | None] = SimpleQueue()
        self.refreshed = self.unchanged = self.failed = 0
        self.paused_until = 0.0
        if transport is not None:
            threading.Thread(target=self._keep_refreshing, name="closeloop-reads", daemon=True).start()

    def answer(self, key: tuple[str, ...], question: Callable[[], Question]) -> Answer:
        """The answer to a question that ``key`` names, as it is known now."""
        now = time.monotonic()
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _Known()
            if len(self._known) > MOST_KEYS:
                self._known.popitem(last=False)
        if not known.asked and now >= known.next_at and self._transport is not None:
            known.asked = True
            self._queue.put((key, question()))
        age = None if known.at is None else now - known.at
        if age is not None and age <= self._max_age:
            return Answer(known.value, False, age, known.arm, known.version)
        return Answer(question().fallback, True, age)

    def stop(self) -> None:
        """Refresh no more."""
        self._queue.put(None)

    def _keep_refreshing(self) -> None:
        while (asked := self._queue.get()) is not None:
            key, question = asked
            known = self._known.get(key)
            if known is None:
                continue
            try:
                fresh = self._refresh(known, question)
            except Exception:  # whatever an answer holds, the engine is not to know
                fresh = False
            known.next_at = time.monotonic() + (self._max_age / 2 if fresh else min(RETRY_SECONDS, self._max_age))
            known.asked = False

    def _refresh(self, known: _Known, question: Question) -> bool:
        assert self._transport is not None, "the thread runs only with one"
        now = time.monotonic()
        if now < self.paused_until or not self._breaker.allows(now):
            return False
        reported = False
        try:
            reply = self._transport.ask(
                "GET", question.path, headers={"If-None-Match": known.etag} if known.etag else None
            )
            if reply.status >= 500 or (300 <= reply.status < 400 and reply.status != 304):
                raise Unanswered(f"answered with {reply.status}")
            if reply.status == 304 and known.at is not None:
                known.at = time.monotonic()
                self.unchanged += 1
            elif reply.status == 200:
                document = json.loads(reply.body)
                value = question.value_of(document)
                if value is None:
                    raise Unanswered("the answer has not the shape of one")
                known.value, known.etag, known.at = value, reply.headers.get("etag"), time.monotonic()
                known.arm, known.version = _told(document, "arm", str), _told(document, "version", int)
                self.refreshed += 1
            elif reply.status == 429:
                self.paused_until = time.monotonic() + reply.retry_after
            self._breaker.succeeded()
            reported = True
            return reply.status in (200, 304)
        except (Unanswered, ValueError, RecursionError):
            self.failed += 1
            return False
        finally:
            if not reported:
                self._breaker.failed(time.monotonic())


def _told(document: Any, name: str, kind: type) -> Any:
    found = document.get(name) if isinstance(document, dict) else None
    return found if isinstance(found, kind) and not isinstance(found, bool) else None


def params(symbol: str, regime: str | None, book: str) -> Question:
    """Parameters for a symbol in a regime."""
    told = {"book": book, "symbol": symbol} | ({"regime": regime} if regime else {})
    return Question(f"/learning/intelligence/adaptive-params?{urlencode(told)}", _params, dict(FALLBACK_PARAMS))


def insights(book: str) -> Question:
    """What patterns have come to."""
    path = f"/learning/intelligence/pattern-insights?{urlencode({'book': book})}"
    return Question(path, lambda found: found if isinstance(found, dict) else None, dict(FALLBACK_INSIGHTS))


def weights(book: str) -> Question:
    """Domain weights; without closeloop none are known, and none are made up."""
    return Question(f"/v1/weights?{urlencode({'book': book})}", lambda found: _numbers(found, "weights"), {})


def size_multiplier(book: str, pattern: str, action: str, scope: Mapping[str, str]) -> Question:
    """The factor of size; without closeloop 1."""
    scoped = ",".join(f"{name}={value}" for name, value in sorted(scope.items()))
    told = {"book": book, "pattern": pattern, "action": action, "scope": scoped}
    return Question(f"/v1/overrides:match?{urlencode(told)}", _multiplier, 1.0)


def _params(found: Any) -> Any:
    data = found.get("data") if isinstance(found, dict) and found.get("success") is True else None
    return _numbers(data, "optimized_parameters")


def _numbers(found: Any, name: str) -> dict[str, float] | None:
    values = found.get(name) if isinstance(found, dict) else None
    if not isinstance(values, dict) or not values:
        return None
    return values if all(_is_number(value) for value in values.values()) else None


def _multiplier(found: Any) -> float | None:
    value = found.get("size_multiplier") if isinstance(found, dict) else None
    return float(value) if value is not None and _is_number(value) and 0 < value <= 10 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value and abs(value) < 1e18
