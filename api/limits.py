"""How much one sender may ask: rates of a token, and failed logins of an address. Counted in the process's memory."""

import math
import time
from dataclasses import dataclass

from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from closeloop.api.problems import Problem

BURST_SECONDS = 2


@dataclass(frozen=True)
class Rates:
    """What a token may do in a second, with a burst of two seconds' worth; failed logins of an address in a minute."""

    reads: int = 200
    items: int = 5_000
    failed_logins: int = 600


class Limiter:
    """Counts, and refuses with 429 and Retry-After what is too much."""

    def __init__(self, rates: Rates) -> None:
        self._strategy = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._reads = RateLimitItemPerSecond(rates.reads * BURST_SECONDS, BURST_SECONDS, "reads")
        self._items = RateLimitItemPerSecond(rates.items * BURST_SECONDS, BURST_SECONDS, "items")
        self._failed = RateLimitItemPerMinute(rates.failed_logins, 1, "failed-logins")

    def read(self, token_id: str) -> None:
        """Count a read. Raises Problem."""
        self._hit(self._reads, token_id, 1, "reads")

    def items(self, token_id: str, number: int) -> None:
        """Count messages. Raises Problem."""
        self._hit(self._items, token_id, number, "messages")

    def failed_login(self, address: str) -> None:
        """Count a token that was not right."""
        self._strategy.hit(self._failed, address)

    def check_logins(self, address: str) -> None:
        """Refuse to look at another unknown token of an address that has failed too often. Raises Problem."""
        if not self._strategy.test(self._failed, address):
            raise self._problem(self._failed, address, "failed logins of this address")

    def _hit(self, item: RateLimitItem, who: str, cost: int, what: str) -> None:
        if not self._strategy.hit(item, who, cost=cost):
            raise self._problem(item, who, f"{what} of this token")

    def _problem(self, item: RateLimitItem, who: str, what: str) -> Problem:
        free_at = self._strategy.get_window_stats(item, who).reset_time
        wait = max(1, math.ceil(free_at - time.time()))
        return Problem(429, f"Too many {what}: at most {item}.", headers={"Retry-After": str(wait)})
