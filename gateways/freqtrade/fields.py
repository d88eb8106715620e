"""The fields of one trade: each under any of the names that versions gave it, required or left out with a note."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from pydantic import TypeAdapter, ValidationError

from closeloop.gateways.trades import Noted
from closeloop.models.values import Identifier, Money

_OLDER_NAMES = {
    "enter_tag": "buy_tag",  # 2021.8 to 2022.3
    "exit_reason": "sell_reason",  # to 2022.3
    "profit_ratio": "profit_percent",  # to 2021.1
    "fee_open": "open_fee",
    "fee_close": "close_fee",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_IDENTIFIER: TypeAdapter[str] = TypeAdapter(Identifier)
_MONEY: TypeAdapter[Decimal] = TypeAdapter(Money)


class Unusable(Exception):
    """A required field cannot be used; the message begins with the file's own name for it."""


class Fields:
    """A trade's fields. What is optional and cannot be used is as if it were absent, and noted once."""

    def __init__(self, trade: Mapping[str, Any], own_names: Mapping[str, str]) -> None:
        self._trade = trade
        self._own_names = own_names
        self._notes: dict[str, str] = {}

    @property
    def notes(self) -> tuple[Noted, ...]:
        """What was left out, in the order in which it was read."""
        return tuple(Noted(field, reason) for field, reason in self._notes.items())

    def own_name(self, field: str) -> str:
        """The file's own name of a field: of those that versions gave it, the one that is there."""
        older = _OLDER_NAMES.get(field)
        if older and self._trade.get(field) is None and self._trade.get(older) is not None:
            return older
        return self._own_names.get(field, field)

    def note(self, field: str, reason: str) -> None:
        """Note that an optional field was left out; the first reason stands."""
        self._notes.setdefault(self.own_name(field), reason)

    def get(self, field: str) -> Any:
        """The value as the file has it; None where it has none."""
        value = self._trade.get(field)
        return self._trade.get(_OLDER_NAMES.get(field, field)) if value is None else value

    def flag(self, field: str) -> bool:
        """A boolean, false where it is absent. Raises Unusable for anything else."""
        value = self.get(field)
        if value is None or isinstance(value, bool):
            return bool(value)
        raise Unusable(f"{self.own_name(field)}: must be true or false")

    def number(self, field: str) -> Decimal:
        """A required number. Raises Unusable."""
        try:
            found = decimal(self.get(field))
        except ValueError as error:
            raise Unusable(f"{self.own_name(field)}: {error}") from None
        if found is None:
            raise Unusable(f"{self.own_name(field)}: must be a finite number, and is missing")
        return found

    def optional_number(self, field: str) -> Decimal | None:
        """An optional number."""
        try:
            return decimal(self.get(field))
        except ValueError as error:
            self.note(field, str(error))
            return None

    def identifier(self, field: str) -> str:
        """A required text that identifies something. Raises Unusable."""
        try:
            return _identifier(self.get(field))
        except ValueError as error:
            raise Unusable(f"{self.own_name(field)}: {error}") from None

    def optional_identifier(self, field: str, otherwise: str = "") -> str | None:
        """An optional text, trimmed; None where nothing is left. ``otherwise``: what stands in for it, for the note."""
        value = self.get(field)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        try:
            return _identifier(value.strip() if isinstance(value, str) else value)
        except ValueError as error:
            self.note(field, f"{error}{otherwise}")
            return None

    def tags(self, field: str, split: bool, otherwise: str) -> list[str]:
        """The text as one tag, or with ``split`` its words; none where there is no text, or one cannot be used."""
        value = self.get(field)
        if not split or not isinstance(value, str):
            tag = self.optional_identifier(field, otherwise)
            return [tag] if tag else []
        try:
            return [_identifier(word) for word in value.split()]
        except ValueError as error:
            self.note(field, f"{error}{otherwise}")
            return []

    def instant(self, date: str, timestamp: str) -> datetime:
        """A required time: of the text, else of the milliseconds. Raises Unusable."""
        value, milliseconds = self.get(date), self.get(timestamp)
        try:
            if value is None and isinstance(milliseconds, int | float) and not isinstance(milliseconds, bool):
                return _EPOCH + timedelta(milliseconds=milliseconds)
            instant = datetime.fromisoformat(value)
            # freqtrade works in UTC throughout; early versions and running bots leave the offset out.
            return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
        except (TypeError, ValueError, OverflowError):
            raise Unusable(f"{self.own_name(date)}: must be a time such as 2018-01-10 07:15:00+00:00") from None


def decimal(value: Any) -> Decimal | None:
    """The number that the file shows; None for null. Raises ValueError for what is no finite number (true is none)."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("must be a finite number")
    try:
        return _MONEY.validate_python(Decimal(str(value)))
    except InvalidOperation:
        raise ValueError("must be a finite number") from None
    except ValidationError as error:
        raise ValueError(_words(error)) from None


def _identifier(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text")
    try:
        return _IDENTIFIER.validate_python(value)
    except ValidationError as error:
        raise ValueError(_words(error)) from None


def _words(error: ValidationError) -> str:
    return error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
