"""What a table's values mean: numbers, money with its currency, times, texts. Each raises Unreadable."""

import math
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import TypeAdapter, ValidationError

from closeloop.gateways.trade_tables.maps import TableMap
from closeloop.models.values import EARLIEST, Identifier, Money

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_MONEY = re.compile(r"(?P<number>[^A-Za-z$€£₮]*[0-9.](?:[eE][+-]?[0-9]+)?)\s*(?P<currency>[A-Za-z$€£₮][\w.$]{0,19})?")
_ABSENT = {"", "nan", "nat", "none", "null", "na", "n/a", "<na>", "-nan"}
_TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_IDENTIFIER: TypeAdapter[str] = TypeAdapter(Identifier)
_AMOUNT: TypeAdapter[Decimal] = TypeAdapter(Money)
_MOST_CHARACTERS = 200


class Unreadable(ValueError):
    """A value is not what its column should hold; the message says what it should be."""


def absent(value: Any) -> bool:
    """Whether a value says nothing: null, NaN, NaT or empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and len(value) < 8 and value.strip().lower() in _ABSENT


def number(value: Any, table: TableMap) -> Decimal:
    """A finite number, as a number or with the table's decimal and thousands signs."""
    if isinstance(value, bool) or not isinstance(value, Decimal | str):
        raise Unreadable("must be a number")
    if isinstance(value, Decimal):
        return _bounded(value)
    text = value.strip()
    if table.thousands:
        digits = text.split(table.decimal)[0].lstrip("+-").split(table.thousands)
        if len(digits) > 1 and (not 1 <= len(digits[0]) <= 3 or any(len(part) != 3 for part in digits[1:])):
            raise Unreadable(f"must have its thousands between {table.thousands!r}")
        text = text.replace(table.thousands, "")
    if table.decimal == ",":
        if "." in text:
            raise Unreadable("must have ',' as its decimal sign")
        text = text.replace(",", ".")
    if len(text) > _MOST_CHARACTERS or not _NUMBER.fullmatch(text):
        raise Unreadable("must be a number" + (" (the map's decimal and thousands say how)" if "," in text else ""))
    return _bounded(Decimal(text))


def money(value: Any, table: TableMap) -> tuple[Decimal, str | None]:
    """An amount and its currency, where one stands beside it: ``78.18 USDT``."""
    if isinstance(value, str) and len(value) <= _MOST_CHARACTERS and (found := _MONEY.fullmatch(value.strip())):
        return number(found["number"], table), found["currency"]
    return number(value, table), None


def instant(value: Any, table: TableMap) -> datetime:
    """A time in UTC: with its offset, or naive in the map's timezone, or counted from 1970 in the map's unit."""
    if isinstance(value, Decimal) or (isinstance(value, str) and _NUMBER.fullmatch(value.strip())):
        if table.epoch is None:
            raise Unreadable("is a bare number: the map must say epoch: s, ms, us or ns")
        count = value if isinstance(value, Decimal) else Decimal(value.strip()[:_MOST_CHARACTERS])
        if not count.is_finite() or not 0 <= count < Decimal(10) ** 22:
            raise _no_time()
        try:
            found = _EPOCH + timedelta(microseconds=int(count * 1_000_000 / _TICKS[table.epoch]))
        except OverflowError:
            raise Unreadable(f"is no time in {table.epoch} since 1970") from None
        if found.year > 2200:
            raise Unreadable(f"is no time in {table.epoch} since 1970: it would be in the year {found.year}")
        return found
    if not isinstance(value, str):
        raise _no_time()
    text = value.strip()
    try:
        found = datetime.strptime(text, table.time_format) if table.time_format else datetime.fromisoformat(text)
    except ValueError:
        raise _no_time(table.time_format) from None
    if found.tzinfo is None:
        if table.timezone is None:
            raise Unreadable("has no UTC offset: the map must say timezone: UTC, or where its clock stood")
        found = found.replace(tzinfo=ZoneInfo(table.timezone))
    try:
        found = found.astimezone(UTC)
    except OverflowError:
        raise _no_time() from None
    if found < EARLIEST:
        raise Unreadable("must be a time between the years 1800 and 9999")
    return found


def word(value: Any) -> str:
    """A text, or a number or truth value as it is written."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Decimal):
        return format(value, "f") if -30 < value.adjusted() < 60 else str(value)
    if not isinstance(value, str):
        raise Unreadable("must be a text")
    return value.strip()


def identifier(value: Any) -> str:
    """A text of 1 to 200 bytes without control characters."""
    try:
        return _IDENTIFIER.validate_python(word(value))
    except ValidationError as error:
        raise Unreadable(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def same(value: Any, words: tuple[str, ...]) -> bool:
    """Whether a value is one of these words, in capitals or not; 0.0 is 0."""
    if isinstance(value, dict | list) or value is None:
        return False
    said = word(value if not isinstance(value, float) else "").lower()
    for one in words:
        if said == one.lower():
            return True
        if _NUMBER.fullmatch(said) and _NUMBER.fullmatch(one) and Decimal(said) == Decimal(one):
            return True
    return False


def _bounded(value: Decimal) -> Decimal:
    try:
        return _AMOUNT.validate_python(value)
    except ValidationError as error:
        raise Unreadable(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def _no_time(form: str | None = None) -> Unreadable:
    return Unreadable(f"must be a time such as {form or '2026-01-01 06:00:00'}")
