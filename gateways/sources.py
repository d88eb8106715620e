"""What every source of prices has in common: how it fails, and how it says for how long not to ask again."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

LONGEST_PAUSE_SECONDS = 3 * 86_400.0  # the longest ban there is; asking during a ban makes it longer


class SourceUnavailable(Exception):
    """The source does not answer now: it is down, slow, or asks to wait.

    ``retry_after``: seconds for which there is no use in asking again, where the source said so. ``for_all``: it holds
    for every asset; otherwise another one may fare better.
    """

    def __init__(self, reason: str, retry_after: float | None = None, *, for_all: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after
        self.for_all = for_all


class SourceNonsense(Exception):
    """The answer is not what the source documents. None of it is used."""


class SourceRefused(Exception):
    """The source refuses this request, and will refuse it again."""


class UnknownSymbol(SourceRefused):
    """The source has no such asset."""


def retry_after(response: httpx.Response) -> float:
    """Seconds of the header, which has a number or a date; 0 where it has neither. RFC 9110, section 10.2.3."""
    value = response.headers.get("Retry-After", "")
    seconds = number(value)
    if (at := _date(value)) and (asked_at := server_time(response)):
        seconds = (at - asked_at).total_seconds()
    return min(max(seconds, 0.0), LONGEST_PAUSE_SECONDS)


def server_time(response: httpx.Response) -> datetime | None:
    """What the source's clock says; None where it does not say."""
    return _date(response.headers.get("Date", ""))


def number(value: str) -> float:
    """A header's plain number; 0 where it has none."""
    return float(value) if re.fullmatch(r"[0-9]{1,12}(?:\.[0-9]{1,6})?", value) else 0.0


def _date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
        return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
