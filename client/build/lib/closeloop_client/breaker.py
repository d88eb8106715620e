"""A circuit breaker: after three failures in a row it stays open for 30 s and longer, then lets one probe through."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"
FAILURES_TO_OPEN = 3
FIRST_OPEN_SECONDS = 30.0
LONGEST_OPEN_SECONDS = 300.0
JITTER = 0.2


class Breaker:
    """Decides whether the server may be asked. Times are seconds of a monotonic clock, given by the caller.

    ``probe_seconds``: after which a probe that nobody reported on counts as failed, so that half_open cannot stick.
    """

    def __init__(self, probe_seconds: float = 10.0, jitter: Callable[[], float] | None = None) -> None:
        self._lock = threading.Lock()
        self._probe_seconds = probe_seconds
        self._jitter = jitter or (lambda: random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311
        self._failures = 0
        self._open_seconds = FIRST_OPEN_SECONDS
        self._probe_since: float | None = None
        self.state = CLOSED
        self.open_until = 0.0
        self.opens = 0

    def allows(self, now: float) -> bool:
        """Whether a call may be made now. One that is allowed has to be reported with ``succeeded`` or ``failed``."""
        with self._lock:
            if self.state == CLOSED:
                return True
            if self.state == HALF_OPEN:
                if self._probe_since is None or now - self._probe_since <= self._probe_seconds:
                    return False
                self._open(now)  # the probe was never reported on: it counts as failed
                return False
            if now < self.open_until:
                return False
            self.state = HALF_OPEN
            self._probe_since = now
            return True

    def succeeded(self) -> None:
        """A call was answered, whatever it was answered with below 500."""
        with self._lock:
            self._failures = 0
            self._open_seconds = FIRST_OPEN_SECONDS
            self._probe_since = None
            self.state = CLOSED

    def failed(self, now: float) -> None:
        """A call found no connection, passed its deadline, or was answered with 5xx."""
        with self._lock:
            self._failures += 1
            if self.state == HALF_OPEN or (self.state == CLOSED and self._failures >= FAILURES_TO_OPEN):
                self._open(now)

    def _open(self, now: float) -> None:
        self.state = OPEN
        self.open_until = now + self._open_seconds * self._jitter()
        self._open_seconds = min(2 * self._open_seconds, LONGEST_OPEN_SECONDS)
        self._probe_since = None
        self._failures = 0
        self.opens += 1
