"""The values that messages are made of, each with the limits it is refused outside of."""

import math
import re
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

MAX_MESSAGE_BYTES = 256 * 1024
# Unicode's control characters, and halves of surrogate pairs, which no UTF-8 text has.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LINE_BREAKS = str.maketrans("", "", "\t\n\r")
EARLIEST = datetime(1800, 1, 1, tzinfo=UTC)


class Direction(StrEnum):
    """The side of a position."""

    long = "long"
    short = "short"


class SignalDirection(StrEnum):
    """What a producer called for."""

    long = "long"
    short = "short"
    flat = "flat"


def _identifier(value: str) -> str:
    # Most identifiers are short and printable ASCII: these two cheap checks accept them.
    if 1 <= len(value) <= 200 and value.isascii() and value.isprintable():
        return value
    if not 1 <= len(value.encode("utf-8", "surrogatepass")) <= 200:
        raise ValueError("must be 1 to 200 bytes long")
    if _CONTROL.search(value):
        raise ValueError("must not contain control characters")
    return value


_NUMBER = re.compile(r"[+-]?[0-9.]+([eE][+-]?[0-9]+)?")


def _instant_text(value: Any) -> Any:
    # pydantic would also guess at bare numbers (seconds? milliseconds?); an instant is never guessed.
    if isinstance(value, datetime) or (isinstance(value, str) and not _NUMBER.fullmatch(value.strip())):
        return value
    raise ValueError('must be a time with its offset, such as "2026-01-01T06:00:00Z"')


def _utc(value: datetime) -> datetime:
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValueError("must carry a UTC offset (a naive time is ambiguous)")
    try:
        value = value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a time between the years 1800 and 9999") from None
    if value < EARLIEST:
        raise ValueError("must be a time between the years 1800 and 9999")
    return value


def utc_text(instant: datetime) -> str:
    """An instant in UTC, in its one spelling as text: ``2026-01-01T06:00:00Z``, with a fraction only if it has one."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _bounded_decimal(value: Decimal) -> Decimal:
    if not value.is_finite():
        raise ValueError("must be a finite number")
    if not value:
        return Decimal(0)  # whatever its exponent: PostgreSQL's is limited, and a zero has no size
    if not -60 <= value.adjusted() <= 30:
        raise ValueError("must be 0 or between 1e-60 and 1e31 in size")
    if len(value.as_tuple().digits) > 100:
        raise ValueError("must have at most 100 digits")
    return value


def _currency(value: str) -> str:
    name = value.strip().upper()
    if len(name.encode()) > 32:
        raise ValueError("must be at most 32 bytes long")
    return _identifier(name)


def _positive(value: Decimal) -> Decimal:
    if value <= 0:
        raise ValueError("must be positive")
    return value


def _no_boolean(value: Any) -> Any:
    # pydantic reads true as 1 and false as 0.
    if value is True or value is False:
        raise ValueError("must be a number, not true or false")
    return value


def _text(value: str) -> str:
    if _CONTROL.search(value.translate(_LINE_BREAKS)):
        raise ValueError("must not contain control characters")
    return value


def plain_json(value: dict[str, Any]) -> dict[str, Any]:
    """Free-form JSON that PostgreSQL can hold: finite numbers, no NUL in texts, at most 32 levels deep."""
    todo: list[tuple[Any, int]] = [(value, 1)]
    while todo:
        item, depth = todo.pop()
        if depth > 32:
            raise ValueError("must not be nested more than 32 levels deep")
        if isinstance(item, dict):
            todo.extend((part, depth + 1) for pair in item.items() for part in pair)
        elif isinstance(item, list):
            todo.extend((part, depth + 1) for part in item)
        elif isinstance(item, str):
            # Printable text has no control characters, and the check for it is cheap.
            if not item.isprintable() and _CONTROL.search(item.translate(_LINE_BREAKS)):
                raise ValueError("must not contain control characters")
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError("must hold finite numbers only")
    return value


BOOK_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
BookId = Annotated[
    str, Field(pattern=f"^{BOOK_PATTERN.pattern}$", description="The strategy's book: 1 to 64 of [A-Za-z0-9_.-].")
]
Text = Annotated[str, AfterValidator(_text)]
Identifier = Annotated[str, AfterValidator(_identifier)]
Currency = Annotated[str, AfterValidator(_currency)]
Utc = Annotated[datetime, BeforeValidator(_instant_text), AfterValidator(_utc)]
# JSON shows every digit and no exponent, however the database spells the number.
Plain = Annotated[Decimal, PlainSerializer(lambda number: format(number, "f"), return_type=str, when_used="json")]
# NaN and infinities pass pydantic's own check, so that _bounded_decimal refuses them with a reason that a person reads.
Money = Annotated[Plain, Field(allow_inf_nan=True), AfterValidator(_bounded_decimal)]
PositiveMoney = Annotated[Money, AfterValidator(_positive)]
NotBoolean = BeforeValidator(_no_boolean)
UnitFloat = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False), NotBoolean]
Score = Annotated[
    float, Field(ge=-1.0, le=1.0, allow_inf_nan=False, description="In [-1, 1], positive = bullish."), NotBoolean
]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False), NotBoolean]
Finite = Annotated[float, Field(allow_inf_nan=False), NotBoolean]
