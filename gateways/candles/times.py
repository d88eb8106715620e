"""What a file writes for an instant."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo

_EPOCH = re.compile(r"([0-9]{9,20})(?:\.0*)?")
# A smaller number is taken for a mistake: a day written as 20180110 would otherwise be a time of 1970.
_EARLIEST_EPOCH_SECONDS = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp())
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
# Ways of writing a day that begins with its year, or names its month: nobody reads them in two ways. 01/02/2026 is not
# among them. (MetaTrader, Finam, HistData; Dukascopy; months by name.)
_TIME = r"(?:[ T]+(?P<hour>\d{1,2}):?(?P<minute>\d{2})(?::?(?P<second>\d{2})(?P<fraction>\.\d{1,9})?)?)?"
_ZONE = r" ?(?P<zone>Z|UTC|GMT|(?:UTC|GMT)?[+-]\d{2}:?\d{2})?"
_OTHER_DATES = tuple(
    re.compile(day + _TIME + _ZONE, re.IGNORECASE)
    for day in (
        r"(?P<year>\d{4})(?P<s>[./-]?)(?P<month>\d{2})(?P=s)(?P<day>\d{2})",
        r"(?P<day>\d{2})\.(?P<month>\d{2})\.(?P<year>\d{4})",
        r"(?P<day>\d{1,2})[ -](?P<name>[a-z]{3,9})[ -](?P<year>\d{4})",
        r"(?P<name>[a-z]{3,9}) (?P<day>\d{1,2}),? (?P<year>\d{4})",
    )
)
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip

Instant = Callable[[str, str], datetime]
"""The instant (UTC) of a cell, given the column's name and the text. Raises ValueError, which names the column."""


def instants(zone: tzinfo | None) -> Instant:
    """How cells are read in a file whose times without an offset are of a zone, or, with None, are refused."""

    def instant(name: str, value: str) -> datetime:
        if epoch := _EPOCH.fullmatch(value):
            return _of_epoch(name, int(epoch[1]))
        found = _written(name, value)
        if found.tzinfo is None:
            if zone is None:
                raise ValueError(
                    f"{name}: has no UTC offset; write 2018-01-11 00:00:00+00:00 or 2018-01-11T00:00:00Z, "
                    "or say whose time it is: --timezone UTC"
                )
            found = _local(name, found, zone)
        try:
            found = found.astimezone(UTC)
        except OverflowError:
            found = datetime.min.replace(tzinfo=UTC)
        if found < _EARLIEST:
            raise ValueError(f"{name}: must be between the years 1970 and 9999")
        return found

    return instant


def is_epoch(value: str) -> bool:
    """Whether a text is a time in seconds since 1970 or fractions of them, to be read without doubt."""
    try:
        return (epoch := _EPOCH.fullmatch(value)) is not None and bool(_of_epoch("", int(epoch[1])))
    except ValueError:
        return False


def last_moment_to_end(instant: datetime) -> datetime:
    """The end of a candle from its last moment: 00:04:59, 00:04:59.999 and 00:04:59.999999 are 00:05:00."""
    if instant.microsecond in (999_000, 999_999):
        return instant.replace(microsecond=0) + _SECOND
    return instant + _SECOND if instant.second == 59 and not instant.microsecond else instant


def _of_epoch(name: str, number: int) -> datetime:
    unit = next((u for u in (1, 10**3, 10**6, 10**9) if number < 10**11 * u), 10**9)
    # Ends of candles are written with their last millisecond or microsecond.
    whole, rest = divmod(number, unit)
    if number >= _EARLIEST_EPOCH_SECONDS * unit and (not rest or unit - rest in (1, unit // 1000)):
        try:
            found = datetime.fromtimestamp(whole, UTC)
            return found.replace(microsecond=rest * 10**6 // unit)
        except (OverflowError, ValueError, OSError):
            pass
    raise ValueError(
        f"{name}: must be whole seconds since 1970 (or milli-, micro- or nanoseconds), from the year 2000 on"
    )


def _written(name: str, value: str) -> datetime:
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        pass
    try:
        if len(value) <= 64 and (match := next(filter(None, (p.fullmatch(value) for p in _OTHER_DATES)), None)):
            return _of_match(match)
    except ValueError:
        pass
    raise ValueError(f"{name}: must be a time such as 2018-01-11 00:00:00+00:00")


def _of_match(match: re.Match[str]) -> datetime:
    parts = match.groupdict()
    if name := parts.get("name"):
        months = [n for n, month in enumerate(_MONTHS, 1) if name.lower() in (month, month[:3])]
        if not months:
            raise ValueError(name)
        month = months[0]
    else:
        month = int(parts["month"])
    hour, minute, second = (int(parts[part] or 0) for part in ("hour", "minute", "second"))
    microsecond = int(f"{parts['fraction'] or '.'}000000"[1:7])
    found = datetime(int(parts["year"]), month, int(parts["day"]), hour, minute, second, microsecond)
    if not (zone := (parts["zone"] or "").upper()):
        return found
    offset = zone.removeprefix("UTC").removeprefix("GMT").removeprefix("Z")
    return datetime.fromisoformat(found.isoformat() + (offset or "+00:00"))


def _local(name: str, found: datetime, zone: tzinfo) -> datetime:
    """A local time with its zone. Raises ValueError where the clocks were put forward or back over it."""
    here = found.replace(tzinfo=zone)
    if here.utcoffset() != here.replace(fold=1).utcoffset():
        raise ValueError(
            f"{name}: {found} is no time, or two, in {zone}: clocks were changed; write it with its offset"
        )
    return here
