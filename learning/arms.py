"""Which parameters a symbol gets on a day of an A/B test."""

import hashlib
from datetime import date


def is_learned(book: str, symbol: str, day: date, share: float) -> bool:
    """Whether a symbol gets the learned parameters on a day (UTC): for a ``share`` (in [0, 1]) of symbol-days.

    By the first 8 bytes of a SHA-256, so that every process says the same and nobody chooses.

    >>> from datetime import date
    >>> [is_learned("b", f"S{k}", date(2026, 1, 1), 0.5) for k in range(6)]
    [False, True, False, True, True, True]
    >>> is_learned("b", "S0", date(2026, 1, 1), 1.0), is_learned("b", "S1", date(2026, 1, 1), 0.0)
    (True, False)
    """
    digest = hashlib.sha256(f"params|{book}|{symbol}|{day.isoformat()}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
