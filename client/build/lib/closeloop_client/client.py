"""The client: what an engine calls. Nothing here raises into the engine or waits for the network."""

from __future__ import annotations

import atexit
import logging
import re
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from closeloop_client import reads
from closeloop_client.breaker import Breaker
from closeloop_client.reads import Answer, Reads
from closeloop_client.sending import MOST_IN_A_BATCH, Next, Sent, send
from closeloop_client.spool import Spool, SpoolClosed
from closeloop_client.transport import Transport, Unanswered

logger = logging.getLogger("closeloop_client")
logger.addHandler(logging.NullHandler())

IDLE_SECONDS = 0.5  # how often the spool is looked at though nobody said that something was put
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0  # after an answer that waiting may mend: a revoked token, another book
EXIT_SECONDS = 0.5


class Written(NamedTuple):
    """Whether a message is on disk and will be sent; ``reason`` where not. ``id``: what it is called on record."""

    accepted: bool
    id: str = ""
    reason: str | None = None


class Closeloop:
    """closeloop, for an engine. One for each process, with a spool of its own; every thread may use it.

    ``max_age``: for how long an answer is used (s); an older one is not, the fallback is. ``name``: what this engine is
    called in closeloop's health. Where the URL or the spool cannot be used, everything is answered with its fallback,
    and ``trouble`` says why.
    """

    def __init__(self, url: str, token: str, *, spool: str, max_age: float = 300.0, name: str = "engine") -> None:
        self.trouble: str | None = None
        self._name = re.sub(r"[^A-Za-z0-9_.-]", "_", str(name))[:64] or "engine"
        self._breaker = Breaker()
        self._spool: Spool | None = None
        self._transport: Transport | None = None
        self._counts = dict.fromkeys(("accepted", "not_accepted", "full", "sent", "duplicates", "refused", "failed"), 0)
        self._put = threading.Event()
        self._stopping = threading.Event()
        self._drainer: threading.Thread | None = None
        try:
            self._transport = Transport(str(url), str(token), self._describe)
        except Exception as error:
            self._in_trouble(f"nothing is sent: {error}")
        try:
            self._spool = Spool(str(spool))
        except Exception as error:
            self._in_trouble(str(error))
        try:
            age = float(max_age)
        except (TypeError, ValueError):
            age = 300.0
            self._in_trouble("max_age is no number of seconds: 300 is used")
        self._reads = Reads(self._transport, self._breaker, age)
        if self._spool is not None and self._transport is not None:
            self._drainer = threading.Thread(target=self._drain, name="closeloop-drain", daemon=True)
            self._drainer.start()
        atexit.register(self.stop, EXIT_SECONDS)

    def __enter__(self) -> Closeloop:
        """Nothing more than the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def __repr__(self) -> str:
        """Without the token."""
        return f"Closeloop(name={self._name!r}, state={self._breaker.state!r})"

    def close(self, position: Mapping[str, Any]) -> Written:
        """A position closed. On disk when this returns; sending it again under the same id is harmless."""
        return self._write("positions", position)

    def discovery(self, message: Mapping[str, Any]) -> Written:
        """What a run of the engine's discovery found: candidates, taken or not."""
        return self._write("discovery-data", message)

    def thesis(self, message: Mapping[str, Any]) -> Written:
        """A decision with its recommendation and confidence."""
        return self._write("thesis-decision", message)

    def trade_outcome(self, message: Mapping[str, Any]) -> Written:
        """A position was opened, changed or closed."""
        return self._write("trade-outcome", message)

    def forecast(self, message: Mapping[str, Any]) -> Written:
        """What a producer expects."""
        return self._write("forecasts", message)

    def heartbeat(self, message: Mapping[str, Any]) -> Written:
        """A producer's sign of life."""
        return self._write("heartbeats", message)

    def params(self, symbol: str, regime: str | None = None, book: str = "default") -> Answer:
        """Parameters by name for a symbol in a regime, and the ``arm`` to record with the decision."""
        return self._read(("params", book, symbol, regime or ""), reads.params, symbol, regime, book)

    def size_multiplier(self, book: str, pattern: str, action: str, scope: Mapping[str, str] | None = None) -> Answer:
        """The factor of size for an action in a scope."""
        try:
            key = ("size", book, pattern, action, *(f"{name}={value}" for name, value in sorted((scope or {}).items())))
        except Exception:
            return Answer(1.0, True)
        return self._read(key, reads.size_multiplier, book, pattern, action, scope or {})

    def weights(self, book: str = "default") -> Answer:
        """Domain weights in force, by name; empty where they are not known."""
        return self._read(("weights", book), reads.weights, book)

    def insights(self, book: str = "default") -> Answer:
        """What patterns have come to."""
        return self._read(("insights", book), reads.insights, book)

    @property
    def state(self) -> str:
        """Of the circuit breaker: closed, open or half_open."""
        return self._breaker.state

    @property
    def counters(self) -> dict[str, int]:
        """What was counted since the start, and what waits in the spool now."""
        return {
            **self._counts,
            "spooled": 0 if self._spool is None else self._spool.items,
            "opens": self._breaker.opens,
            "reads_refreshed": self._reads.refreshed,
            "reads_unchanged": self._reads.unchanged,
            "reads_failed": self._reads.failed,
        }

    def stop(self, seconds: float = EXIT_SECONDS) -> None:
        """Send no more; waits at most so long for what is under way. What is spooled stays for the next start."""
        try:
            self._stopping.set()
            self._put.set()
            self._reads.stop()
            if self._drainer is not None and self._drainer is not threading.current_thread():
                self._drainer.join(min(seconds, 1.0))
                if not self._drainer.is_alive() and self._spool is not None:
                    spool, self._spool = self._spool, None
                    spool.close()
            atexit.unregister(self.stop)
        except Exception as error:
            self._in_trouble(f"it did not stop well: {type(error).__name__}")

    def _in_trouble(self, why: str) -> None:
        self.trouble = why
        logger.warning("closeloop: %s", why)

    def _describe(self) -> str:
        spooled, refused = (self._spool.items, self._spool.refused_items) if self._spool is not None else (0, 0)
        return f"{self._name};{self._breaker.state};{self._breaker.opens};{spooled};{refused}"

    def _write(self, kind: str, message: Mapping[str, Any]) -> Written:
        try:
            if self._spool is None:
                return self._not_accepted("", self.trouble or "the client is stopped")
            name, reason = self._spool.put(kind, message)
            if reason is not None:
                if reason == "the spool is full":
                    self._counts["full"] += 1
                return self._not_accepted(name, reason)
            self._counts["accepted"] += 1
            self._put.set()
            return Written(True, name)
        except SpoolClosed as error:
            return self._not_accepted("", str(error))
        except Exception as error:  # a full disk, a file that was deleted, what SQLite makes of it
            return self._not_accepted("", f"it could not be put on disk: {type(error).__name__}")

    def _not_accepted(self, name: str, reason: str) -> Written:
        self._counts["not_accepted"] += 1
        return Written(False, name, reason)

    def _read(self, key: tuple[Any, ...], question: Any, *asked: Any) -> Answer:
        try:
            return self._reads.answer(key, lambda: question(*asked))
        except Exception:  # what cannot be asked has its fallback
            kind = key[0]
            if kind == "params":
                return Answer(dict(reads.FALLBACK_PARAMS), True)
            return Answer({"size": 1.0, "weights": {}}.get(kind, dict(reads.FALLBACK_INSIGHTS)), True)

    def _drain(self) -> None:
        most, pause = MOST_IN_A_BATCH, FIRST_PAUSE
        while not self._stopping.is_set():
            self._put.wait(IDLE_SECONDS)
            self._put.clear()
            while not self._stopping.is_set():
                spool, transport, now = self._spool, self._transport, time.monotonic()
                if spool is None or transport is None or spool.items == 0:
                    break
                if not self._breaker.allows(now):
                    self._stopping.wait(0.2)
                    continue
                sent = self._send(spool, transport, most)
                if sent is None:
                    break
                if sent.then is Next.GO_ON:
                    most, pause = MOST_IN_A_BATCH, FIRST_PAUSE
                elif sent.then is Next.FEWER:
                    most = max(1, most // 2)
                elif sent.then is Next.PAUSE:
                    self._stopping.wait(pause if sent.pause is None else sent.pause)
                    pause = FIRST_PAUSE if sent.pause is not None else min(2 * pause, LONGEST_PAUSE)
                else:
                    self._stopping.wait(0.2)

    def _send(self, spool: Spool, transport: Transport, most: int) -> Sent | None:
        """One batch, reported to the breaker whatever happens."""
        failed = True
        try:
            sent = send(spool, transport, most)
            failed = sent is not None and sent.then is Next.FAILED
            if sent is not None:
                self._counts["sent"] += sent.done
                self._counts["duplicates"] += sent.duplicates
                self._counts["refused"] += sent.refused
                if sent.reason:
                    logger.info("closeloop: %s", sent.reason)
            return sent
        except Unanswered as error:
            logger.info("closeloop: no answer (%s)", error)
            return Sent(Next.FAILED, reason=str(error))
        except Exception as error:
            logger.warning("closeloop: the spool was not read (%s)", type(error).__name__)
            return Sent(Next.FAILED, reason=type(error).__name__)
        finally:
            if failed:
                self._counts["failed"] += 1
                self._breaker.failed(time.monotonic())
            else:
                self._breaker.succeeded()
