"""What the door counts: for Prometheus, and by the minute for the database, so that any process can tell of all."""

import asyncio
import bisect
import contextlib
import logging
import os
import socket
import time
import uuid
from collections import OrderedDict, defaultdict
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import Scope

from closeloop import store
from closeloop.models.door import LATENCY_BOUNDS_MS, READS
from closeloop.models.health import ClientHealth
from closeloop.store.database import Sessions
from closeloop.store.errors import DATABASE_ERRORS

logger = logging.getLogger(__name__)

FLUSH_EVERY_SECONDS = 10.0
KEPT_DAYS = 31
MOST_CLIENTS = 100
BREAKER_STATES = ("closed", "open", "half_open")
Minute = tuple[int, str]
"""A minute since 1970, and what is counted in it."""


class Measures:
    """Counts of one API process."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._process = f"{socket.gethostname()[:60]}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._minutes: dict[Minute, defaultdict[str, float]] = {}
        self._clients: OrderedDict[str, ClientHealth] = OrderedDict()
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "closeloop_requests", "Answers of the HTTP door", ["route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "closeloop_request_seconds", "From a request's start to its answer", ["route"], registry=self.registry
        )
        self._messages = Counter(
            "closeloop_messages", "Messages, by receipt", ["kind", "status"], registry=self.registry
        )
        self.refused = Gauge("closeloop_tokens_refused", "Tokens that were not right", registry=self.registry)
        self.oldest = Gauge(
            "closeloop_inbox_oldest_unattributed_seconds",
            "Age of the oldest close on record without an attribution",
            registry=self.registry,
        )
        self.accepted = Gauge(
            "closeloop_inbox_messages_today", "Messages accepted since 00:00 UTC", ["kind"], registry=self.registry
        )

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        """Count an answer."""
        route = scope.get("route")
        name = getattr(route, "path", "none")  # never the path itself: anybody can make up new ones
        self._requests.labels(name, str(status)).inc()
        self._seconds.labels(name).observe(seconds)
        if kind := scope.get("closeloop.kind"):
            self._add(kind, str(status), 1)
            if status < 400:
                self._latency(kind, seconds * 1e3)

    def heard(self, header: str | None) -> None:
        """Remember what an engine's client says of itself: ``name;state;opens;spooled;refused``."""
        parts = (header or "").split(";")
        if len(parts) != 5 or len(header or "") > 200:
            return
        name, state, *numbers = (part.strip() for part in parts)
        if state not in BREAKER_STATES or not all(number.isdecimal() and len(number) < 16 for number in numbers):
            return
        opens, spooled, refused = map(int, numbers)
        self._clients[name] = ClientHealth(
            name=name, state=state, opens=opens, spooled=spooled, refused=refused, seen_at=datetime.now(UTC)
        )
        self._clients.move_to_end(name)
        if len(self._clients) > MOST_CLIENTS:
            self._clients.popitem(last=False)

    def clients(self) -> list[ClientHealth]:
        """What clients said of themselves, by name."""
        return [self._clients[name] for name in sorted(self._clients)]

    def took_in(self, kind: str, status: str, number: int) -> None:
        """Count messages by their receipts."""
        self._messages.labels(kind, status).inc(number)
        self._add(kind, status, number)

    def from_memory(self) -> None:
        """Count a read that was answered from memory, or with 304."""
        self._add(READS, "memory", 1)

    def _add(self, kind: str, name: str, number: float) -> None:
        minute = int(time.time()) // 60, kind
        if (counts := self._minutes.get(minute)) is None:
            counts = self._minutes[minute] = defaultdict(float)
        counts[name] += number

    def _latency(self, kind: str, ms: float) -> None:
        self._add(kind, "ms", ms)
        place = bisect.bisect_left(LATENCY_BOUNDS_MS, ms)
        bound = LATENCY_BOUNDS_MS[place] if place < len(LATENCY_BOUNDS_MS) else "more"
        self._add(kind, f"le{bound}", 1)

    async def keep_flushing(self) -> None:
        """Write what was counted every ten seconds; for ever."""
        while True:
            await asyncio.sleep(FLUSH_EVERY_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Add what was counted since the last time to the rows of its minutes. What cannot be written is kept."""
        counted, self._minutes = self._minutes, {}
        if not counted:
            return
        rows: list[dict[str, Any]] = [
            {
                "minute": datetime.fromtimestamp(minute * 60, UTC),
                "kind": kind,
                "process": self._process,
                "counts": dict(counts),
            }
            for (minute, kind), counts in sorted(counted.items())
        ]
        try:
            async with self._sessions.begin() as session:
                await store.door.count(session, rows)
                await store.door.forget(session, KEPT_DAYS)
        except DATABASE_ERRORS as error:
            logger.warning("counts are written later", extra={"reason": type(error).__name__})
            self._keep(counted)

    def _keep(self, counted: dict[Minute, defaultdict[str, float]]) -> None:
        with contextlib.suppress(KeyError):
            while len(counted) > 1_000:
                del counted[min(counted)]
        for (minute, kind), counts in counted.items():
            now = self._minutes.setdefault((minute, kind), defaultdict(float))
            for name, number in counts.items():
                now[name] += number
