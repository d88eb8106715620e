"""Reading a close as it was sent: what is required must hold; a bad optional field costs the field, not the trade."""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from closeloop.models.exit_reasons import todays_name
from closeloop.models.positions import ClosedPosition, NotedField
from closeloop.models.refusals import describe, path, reason_of
from closeloop.models.values import plain_json

MOST_NOTES = 20  # of one close; a last note counts the others
_REQUIRED = {name for name, field in ClosedPosition.model_fields.items() if field.is_required()}
# Without a key that nobody can read, the position could be taken for another one.
_STRICT = _REQUIRED | {"position_key", "noted"}
_REQUIRED_WITHIN = {"conviction": {"conviction_id"}, "signals": {"signal_id", "producer_id"}}
# A record from before these could be stated says nothing against them, and a sender may leave them out.
_UNSTATED_IS_THE_SAME = {"currency"}
_NO_CONTENT = {"book", "position_id", "position_key", "noted"}  # identity, and what a door said
_NUMBERS = ("entry_price", "exit_price", "size", "realized_pnl", "risk", "max_drawdown_pct", "max_favorable_pct")
_RELATIVE = Decimal("1e-9")  # numbers that agree to this are the same: 9.8 and 9.800000000000002
_EXCURSIONS = ("max_drawdown_pct", "max_favorable_pct")
_MONEY = ("entry_price", "exit_price", "size", "realized_pnl", "risk")

Location = tuple[int | str, ...]


class ReadClose(NamedTuple):
    """What was made of a message: the close, with the optional fields that it had to do without; or why it is none."""

    position: ClosedPosition | None
    notes: tuple[NotedField, ...]
    reason: str


def read_close(payload: bytes | str | Mapping[str, Any]) -> ReadClose:
    """Read a close. A bad optional field is left out and noted; ``reason`` says why a required one is refused.

    The smallest part that can be missed is left out: one signal of ``signals``, one domain of a conviction's scores,
    one value of ``entry_context``. The position carries the notes too (``noted``), and those that it was sent with.
    """
    payload = _levers_within(payload)
    try:
        if isinstance(payload, Mapping):
            position = ClosedPosition.model_validate(payload)
        else:
            position = ClosedPosition.model_validate_json(payload)
    except ValidationError as error:
        return _leniently(payload, error)
    return _told(position, [])


def differing(one: ClosedPosition, other: ClosedPosition) -> list[str]:
    """The fields in which two closes of one position contradict each other; none where they are the same close.

    Numbers are the same to 1e-9 relative, and an exit reason by its old name is the same. A currency that only one of
    them states is no contradiction; another optional field that only one of them has is one.
    """
    return [
        name
        for name in ClosedPosition.model_fields
        if name not in _NO_CONTENT and not _agree(name, getattr(one, name), getattr(other, name))
    ]


def with_position_key(line: bytes, key: str) -> bytes:
    """A message as JSON with this ``position_key``, unless it says one itself (the last of equal names counts)."""
    start = line.lstrip()
    if not start.startswith(b"{") or start[1:].lstrip().startswith(b"}"):
        return line
    return b'{"position_key":' + json.dumps(key).encode() + b"," + start[1:]


def _agree(name: str, one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other or name in _UNSTATED_IS_THE_SAME
    if name in _NUMBERS:
        a, b = Decimal(one), Decimal(other)
        return abs(a - b) <= _RELATIVE * max(abs(a), abs(b))
    if name == "exit_reason":
        return todays_name(one) == todays_name(other)
    return _same(one, other)


def _same(one: Any, other: Any) -> bool:
    """Equality that survives PostgreSQL's numbers: it gives 1e+23 back as an integer, which is not that double."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) != isinstance(other, float) and isinstance(one, int) != isinstance(other, int):
        try:
            return float(one) == float(other)
        except (OverflowError, TypeError, ValueError):
            return False
    return bool(one == other)


def _told(position: ClosedPosition, notes: list[tuple[str, str]]) -> ReadClose:
    """The close with what was left out of it. Excursions are percent of the entry price: of 0 or less, none exist."""
    gone = [name for name in _EXCURSIONS if position.entry_price <= 0 and getattr(position, name) is not None]
    notes = notes + [(name, "is a percentage of an entry price that is not positive") for name in gone]
    if notes:
        noted = (*position.noted, *_bounded(notes))
        position = position.model_copy(update=dict.fromkeys(gone) | {"noted": noted})
    return ReadClose(position, position.noted, "")


def _leniently(payload: bytes | str | Mapping[str, Any], error: ValidationError) -> ReadClose:
    try:
        values = _copy(payload) if isinstance(payload, Mapping) else _parsed(payload)
    except (ValueError, RecursionError):
        return ReadClose(None, (), describe(error))
    notes: list[tuple[str, str]] = []
    while True:
        bad = _left_out(values, error.errors(include_url=False, include_context=False, include_input=False))
        notes += bad
        if not bad:
            return ReadClose(None, (), describe(error))
        try:
            position = ClosedPosition.model_validate(values)
        except ValidationError as again:
            error = again
            continue
        return _told(position, notes)


def _parsed(payload: bytes | str) -> dict[str, Any]:
    """The message as plain values; money as text, which keeps every digit. Raises ValueError and RecursionError."""
    values = json.loads(payload, parse_float=_Literal)
    if not isinstance(values, dict):
        raise ValueError("no object")
    money = {name: values[name].literal for name in _MONEY if isinstance(values.get(name), _Literal)}
    return values | money


def _levers_within(payload: bytes | str | Mapping[str, Any]) -> bytes | str | Mapping[str, Any]:
    """``levers_id`` belongs into the entry context, which every door has; at the top of a message it says the same."""
    if isinstance(payload, Mapping):
        values = payload
    elif (b'"levers_id"' if isinstance(payload, bytes) else '"levers_id"') in payload:  # type: ignore[operator]
        try:
            values = _parsed(payload)
        except (ValueError, RecursionError):
            return payload  # the model says what is wrong with it
    else:
        return payload
    context = values.get("entry_context")
    if values.get("levers_id") is None or not (context is None or isinstance(context, Mapping)):
        return payload
    return {**values, "entry_context": {"levers_id": values["levers_id"], **(context or {})}}


class _Literal(float):
    """A JSON number, with the text that it was sent as."""

    literal: str

    def __new__(cls, text: str) -> "_Literal":
        number = super().__new__(cls, text)
        number.literal = text
        return number


def _copy(values: Any) -> Any:
    """Its objects and lists made anew, so that the sender's own stay whole. Raises RecursionError."""
    if isinstance(values, Mapping):
        return {key: _copy(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_copy(value) for value in values]
    return values


def _left_out(values: dict[str, Any], errors: Sequence[ErrorDetails]) -> list[tuple[str, str]]:
    """Take what these errors are about out of the message; returns (field, reason) of what was taken out.

    Nothing is taken out for an error in what is required.
    """
    found: list[tuple[str, str]] = []
    gone: set[Location] = set()
    for item in errors:
        where = _optional_part(item["loc"])
        if where is None or any(where[: len(part)] == part for part in gone):
            continue
        if where == ("entry_context",) and isinstance(values["entry_context"], dict):
            bad = _bad_context(values["entry_context"])
            if bad and len(bad) < len(values["entry_context"]):
                found += [(path(("entry_context", key)), reason) for key, reason in bad.items()]
                values["entry_context"] = {k: v for k, v in values["entry_context"].items() if k not in bad}
                continue
        gone.add(where)
        found.append((path([part for part in item["loc"] if part != "[key]"]), reason_of(item)))
    # The last element first: taking out an earlier one would move it.
    for where in sorted(gone, key=lambda part: [(isinstance(p, str), p) for p in part], reverse=True):
        holder: Any = values
        for part in where[:-1]:
            holder = holder[part]
        del holder[where[-1]]
    return found


def _optional_part(location: Location) -> Location | None:
    """The smallest part of a message, at or above this location, that may be missing; None for what is required."""
    if not location or location[0] in _STRICT:
        return None
    field, *within = location
    if field == "conviction" and within and within[0] not in _REQUIRED_WITHIN["conviction"]:
        return location[:3] if within[0] == "domain_scores" else location[:2]
    if field == "signals" and within:
        optional = len(within) > 1 and within[1] not in _REQUIRED_WITHIN["signals"]
        return location[:3] if optional else location[:2]
    if field == "entry_context" and within:
        return location[:2]
    return location[:1]


def _bad_context(context: Mapping[str, Any]) -> dict[str, str]:
    """The values of an entry context that no database can hold, with the reasons."""
    bad = {}
    for key, value in context.items():
        try:
            plain_json({key: value})
        except ValueError as error:
            bad[key] = str(error)
    return bad


def _bounded(notes: Sequence[tuple[str, str]]) -> list[NotedField]:
    shown = [NotedField(field=field[:300], reason=reason[:300]) for field, reason in notes[:MOST_NOTES]]
    if (more := len(notes) - len(shown)) > 0:
        shown.append(NotedField(field="message", reason=f"{more} more optional fields were left out"))
    return shown
