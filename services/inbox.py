"""What comes in by the HTTP door: read, recorded in one transaction, and answered with a receipt for each message.

Each kind of message is an :class:`Intake`, which reads one and records many. What a message starts (the workflow of a
close) is started by the door after the commit; where that fails, the catch-up finds it on record.
"""

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.closes import differing, read_close
from closeloop.models.decisions import DecisionMessage, DiscoveryMessage, TradeChangeMessage
from closeloop.models.forecasts import Forecast
from closeloop.models.inbox import Kind, ProducerSignal, Receipt, ReceiptStatus, message_id
from closeloop.models.positions import ClosedPosition, NotedField
from closeloop.models.producers import Heartbeat
from closeloop.models.refusals import path, reason_of
from closeloop.models.tokens import Scope, TokenView
from closeloop.models.values import BOOK_PATTERN
from closeloop.services import decisions, forecasts, tokens
from closeloop.services.books import archived_sentence
from closeloop.services.decisions import CLOCK_DIFFERENCE
from closeloop.services.recorded_closes import record_closes

DEFAULT_BOOK = "default"
Key = tuple[str, str]
"""A message's book and id."""


class FieldError(NamedTuple):
    """What is wrong with a field of a message."""

    field: str
    message: str


class Unreadable(Exception):
    """A message that can never be taken in as it was sent."""

    def __init__(self, errors: Sequence[FieldError], identity: str = "") -> None:
        super().__init__("; ".join(f"{error.field}: {error.message}" for error in errors))
        self.errors = list(errors)
        self.identity = identity


@dataclass(frozen=True)
class Arrived:
    """A message as it came: ``given_id`` is the id beside it, of a batch's item or of ``Idempotency-Key``."""

    kind: str
    body: Any
    given_id: str | None = None


@dataclass(frozen=True)
class Sender:
    """Who sends, and in which request."""

    token: TokenView
    request_id: str


@dataclass(frozen=True)
class Read:
    """A message that could be read. ``key`` identifies it on record, ``sent_id`` is what its sender calls it."""

    key: Key
    sent_id: str
    message: Any
    noted: Sequence[NotedField] = ()


@dataclass
class Recorded:
    """What became of messages, by key; one that is in none of the three is on record as sent."""

    new: set[Key] = field(default_factory=set)
    differing: dict[Key, list[str]] = field(default_factory=dict)
    refused: dict[Key, str] = field(default_factory=dict)
    closes: list[ClosedPosition] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """The receipt of a message, and what is wrong with which of its fields."""

    receipt: Receipt
    errors: Sequence[FieldError] = ()


@dataclass(frozen=True)
class TakenIn:
    """The answers in the order of the messages; ``closes``: new ones, whose workflow is to be started."""

    answers: list[Answer]
    closes: list[ClosedPosition]


class Intake(Protocol):
    """A kind of message: how one is read, and how many are recorded."""

    kind: Kind

    def read(self, body: Mapping[str, Any], book: str, given_id: str | None, now: datetime) -> Read:
        """The message. Raises Unreadable, ValidationError."""
        ...

    async def record(self, session: AsyncSession, messages: Mapping[Key, Any], now: datetime) -> Recorded:
        """Record messages, sorted by key, in the caller's transaction."""
        ...

    def differing(self, one: Any, other: Any) -> list[str]:
        """The fields in which two messages of one key differ."""
        ...


async def take_in(
    session: AsyncSession, arrived: Sequence[Arrived], sender: Sender, now: datetime, intakes: Mapping[str, Intake]
) -> TakenIn:
    """Read messages and record them in the caller's transaction, with a row in the inbox for each that is accepted.

    Of several messages of one key the first one stays. One that is refused stops no other.
    """
    answers: list[Answer | None] = [None] * len(arrived)
    read: dict[str, dict[int, Read]] = {}
    for index, item in enumerate(arrived):
        try:
            read.setdefault(item.kind, {})[index] = _read(item, sender.token, now, intakes)
        except Unreadable as error:
            answers[index] = _refused(item, error, now)
    closes: list[ClosedPosition] = []
    rows: list[dict[str, Any]] = []
    for kind in sorted(read):  # in one order, so that no two transactions wait for each other in a circle
        closes += await _record(session, intakes[kind], read[kind], answers, rows, sender, now)
    await store.inbox.add(session, rows)
    return TakenIn([answer for answer in answers if answer is not None], closes)


async def _record(
    session: AsyncSession,
    intake: Intake,
    read: Mapping[int, Read],
    answers: list[Answer | None],
    rows: list[dict[str, Any]],
    sender: Sender,
    now: datetime,
) -> list[ClosedPosition]:
    closes: list[ClosedPosition] = []
    rest = dict(read)
    while rest:
        first: dict[Key, tuple[int, Read]] = {}
        for index, one in rest.items():
            first.setdefault(one.key, (index, one))
        recorded = await intake.record(session, {key: first[key][1].message for key in sorted(first)}, now)
        closes += recorded.closes
        later: dict[int, Read] = {}
        for index, one in rest.items():
            of, before = first[one.key]
            # What became of a message that is not on record says nothing of another one under its id.
            unsettled = one.key in recorded.refused or one.key in recorded.differing
            if unsettled and index != of and one.message != before.message:
                later[index] = one
                continue
            status, reason, fields = ReceiptStatus.duplicate, None, []
            again = intake.differing(before.message, one.message) if index != of and not unsettled else []
            if one.key in recorded.refused:
                status, reason = ReceiptStatus.refused, recorded.refused[one.key]
            elif fields := again or recorded.differing.get(one.key, []):
                status, reason = ReceiptStatus.conflict, _conflict(intake.kind, fields)
            elif one.key in recorded.new and index == of:
                status = ReceiptStatus.accepted
                rows.append(_row(intake.kind, one, sender, now))
            errors = [FieldError(name, "differs from what is on record") for name in fields] or fields_of(reason)
            receipt = Receipt(
                id=one.sent_id, kind=intake.kind, status=status, received_at=now, reason=reason, noted=list(one.noted)
            )
            answers[index] = Answer(receipt, errors)
        rest = later
    return closes


def _row(kind: Kind, one: Read, sender: Sender, now: datetime) -> dict[str, Any]:
    return {
        "book_id": one.key[0],
        "kind": kind,
        "message_id": one.key[1],
        "received_at": now,
        "message": one.message.model_dump(mode="json") if kind is Kind.signals else None,
        "token_id": sender.token.token_id,
        "request_id": sender.request_id,
    }


def _read(item: Arrived, token: TokenView, now: datetime, intakes: Mapping[str, Intake]) -> Read:
    if item.kind not in intakes:
        raise Unreadable([FieldError("kind", f"must be one of {', '.join(sorted(intakes))}")])
    if not isinstance(item.body, dict):
        raise Unreadable([FieldError("message", "must be a JSON object")])
    book = book_of(item.body)
    if reason := tokens.not_for(token, Scope.ingest, book):
        raise Unreadable([FieldError("book", reason)])
    if item.given_id is not None and not (1 <= len(item.given_id.encode("utf-8", "surrogatepass")) <= 200):
        raise Unreadable([FieldError("id", "must be 1 to 200 bytes long")])
    try:
        return intakes[item.kind].read(item.body, book, item.given_id, now)
    except ValidationError as error:
        raise Unreadable(errors_of(error)) from None


def book_of(body: Mapping[str, Any]) -> str:
    """The book that a message names, or the one that it is for if it names none. Raises Unreadable."""
    book = body.get("book", DEFAULT_BOOK)
    if not isinstance(book, str) or not BOOK_PATTERN.fullmatch(book):
        raise Unreadable([FieldError("book", "must be 1 to 64 of [A-Za-z0-9_.-]")])
    return book


def errors_of(error: ValidationError) -> list[FieldError]:
    """What is wrong with which field, at most 20 of them; the refused values themselves are not repeated."""
    items = error.errors(include_url=False, include_context=False, include_input=False)[:20]
    found = [FieldError(path(item["loc"]) or "message", reason_of(item)) for item in items]
    # What a whole message is refused for names its field itself.
    return [fields_of(one.message)[0] if one.field == "message" and fields_of(one.message) else one for one in found]


_NAMED = re.compile(r"(?:^|; )([A-Za-z_][A-Za-z0-9_.]*): ")


def fields_of(reason: str | None) -> list[FieldError]:
    """The fields that a sentence such as ``size: must be positive; direction: ...`` names, with their reasons."""
    if not reason:
        return []
    parts = _NAMED.split(reason)
    return [FieldError(name, text.strip()) for name, text in zip(parts[1::2], parts[2::2], strict=True)]


def _refused(item: Arrived, error: Unreadable, now: datetime) -> Answer:
    named = error.identity or item.given_id or _named(item)
    receipt = Receipt(
        id=named[:200], kind=item.kind[:64], status=ReceiptStatus.refused, received_at=now, reason=str(error)[:2_000]
    )
    return Answer(receipt, error.errors)


_ID_FIELDS = {
    Kind.positions: "position_id",
    Kind.forecasts: "forecast_id",
    Kind.heartbeats: "heartbeat_id",
    Kind.signals: "signal_id",
    Kind.thesis_decision: "decision_id",
}


def _named(item: Arrived) -> str:
    """The id of a message that could not be read, as far as it says one."""
    name = item.body.get(_ID_FIELDS.get(item.kind, "id")) if isinstance(item.body, dict) else None  # type: ignore[call-overload]
    return name if isinstance(name, str) else ""


def _conflict(kind: Kind, fields: Sequence[str]) -> str:
    return f"other content is on record under this id; differing: {', '.join(fields)}"


def _id_of(kind: Kind, body: Mapping[str, Any], book: str, given_id: str | None) -> str:
    """The id of a message that has none of its own: the one given beside it, or that of its content."""
    return given_id if given_id is not None else message_id(book, kind, body)


class PositionIntake:
    """Closed positions. A workflow attributes each after the commit."""

    kind = Kind.positions

    def read(self, body: Mapping[str, Any], book: str, given_id: str | None, now: datetime) -> Read:
        """See Intake."""
        read = read_close({"book": book, **body})
        if read.position is None:
            raise Unreadable(fields_of(read.reason) or [FieldError("message", read.reason)])
        key = read.position.key
        return Read((key.book, key.position_id), read.position.position_id, read.position, read.notes)

    async def record(self, session: AsyncSession, messages: Mapping[Key, ClosedPosition], now: datetime) -> Recorded:
        """See Intake."""
        refused, found = await record_closes(session, list(messages.values()), now, attributed=False)
        recorded = Recorded(new=set(found.new), closes=[messages[key] for key in sorted(found.new)])
        keys = list(messages)
        for index, why in refused.items():
            recorded.refused[keys[index]] = why.reason
        recorded.differing = {(key.book, key.position_id): fields for key, fields in found.differing.items()}
        return recorded

    def differing(self, one: ClosedPosition, other: ClosedPosition) -> list[str]:
        """See Intake."""
        return differing(one, other)


class ForecastIntake:
    """Forecasts, which are resolved when their horizon has elapsed."""

    kind = Kind.forecasts

    def read(self, body: Mapping[str, Any], book: str, given_id: str | None, now: datetime) -> Read:
        """See Intake."""
        forecast = Forecast.model_validate({"book": book, **body})
        if reason := forecasts.unacceptable(forecast, now):
            raise Unreadable(fields_of(reason), forecast.forecast_id)
        return Read((forecast.book, forecast.forecast_id), forecast.forecast_id, forecast)

    async def record(self, session: AsyncSession, messages: Mapping[Key, Forecast], now: datetime) -> Recorded:
        """See Intake."""
        recorded, taken = await _of_open_books(session, messages)
        found = await store.forecasts.record(session, list(taken.values()))
        recorded.new = {(key.book, key.forecast_id) for key in found.new}
        recorded.differing = {(key.book, key.forecast_id): list(fields) for key, fields in found.differing.items()}
        return recorded

    def differing(self, one: Forecast, other: Forecast) -> list[str]:
        """See Intake."""
        return _differing(one, other)


class HeartbeatIntake:
    """Heartbeats of producers. One without an id is counted whenever it comes: two that say the same are two."""

    kind = Kind.heartbeats

    def read(self, body: Mapping[str, Any], book: str, given_id: str | None, now: datetime) -> Read:
        """See Intake."""
        beat = Heartbeat.model_validate({"book": book, **body})
        name = beat.heartbeat_id or given_id or uuid.uuid4().hex
        at = now if beat.at is None else min(beat.at, now)  # a clock that is ahead keeps nobody fresh for ever
        beat = Heartbeat.model_validate(beat.model_dump() | {"heartbeat_id": name, "at": at})
        producer = beat.producer_id.replace("%", "%25").replace("/", "%2F")
        return Read((book, f"{producer}/{name}"), name, beat)

    async def record(self, session: AsyncSession, messages: Mapping[Key, Heartbeat], now: datetime) -> Recorded:
        """See Intake."""
        recorded, taken = await _of_open_books(session, messages)
        for key, beat in taken.items():
            assert beat.heartbeat_id is not None, "it was filled in"
            assert beat.at is not None, "it was filled in"
            if await store.producers.beat(session, beat, beat.heartbeat_id, beat.at):
                recorded.new.add(key)
        return recorded

    def differing(self, one: Heartbeat, other: Heartbeat) -> list[str]:
        """See Intake. What is counted is counted: another content under the same id changes nothing."""
        return []


class SignalIntake:
    """Signals that producers send by themselves. They are kept in the inbox."""

    kind = Kind.signals

    def read(self, body: Mapping[str, Any], book: str, given_id: str | None, now: datetime) -> Read:
        """See Intake."""
        named = {} if "signal_id" in body else {"signal_id": _id_of(self.kind, body, book, given_id)}
        signal = ProducerSignal.model_validate({"book": book, **body, **named})
        return Read((book, signal.signal_id), signal.signal_id, signal)

    async def record(self, session: AsyncSession, messages: Mapping[Key, ProducerSignal], now: datetime) -> Recorded:
        """See Intake."""
        recorded, taken = await _of_open_books(session, messages)
        await store.rows.execute(session, store.books.creating({book for book, _ in taken}))
        there = await store.inbox.hold(session, self.kind, sorted(taken))
        for key, signal in taken.items():
            if key not in there:
                recorded.new.add(key)
            elif fields := _differing(ProducerSignal.model_validate(there[key]), signal):
                recorded.differing[key] = fields
        return recorded

    def differing(self, one: ProducerSignal, other: ProducerSignal) -> list[str]:
        """See Intake."""
        return _differing(one, other)


class ThesisIntake:
    """Decisions with a thesis. What became of the market is filled in when it is due."""

    kind = Kind.thesis_decision

    def read(self, body: Mapping[str, Any], book: str, given_id: str | None, now: datetime) -> Read:
        """See Intake."""
        named = {} if "decision_id" in body else {"decision_id": _id_of(self.kind, body, book, given_id)}
        decision = DecisionMessage.model_validate({"book": book, **body, **named})
        _not_in_the_future(decision.timestamp, now)
        return Read((book, decision.decision_id), decision.decision_id, decision)

    async def record(self, session: AsyncSession, messages: Mapping[Key, DecisionMessage], now: datetime) -> Recorded:
        """See Intake."""
        recorded, taken = await _of_open_books(session, messages)
        found = await store.decisions.record(session, taken, now)
        recorded.new, recorded.differing = found.new, found.differing
        return recorded

    def differing(self, one: DecisionMessage, other: DecisionMessage) -> list[str]:
        """See Intake."""
        fields = _differing(one, other)
        if "thesis" in fields:
            fields.remove("thesis")
            fields += [f"thesis.{name}" for name in _differing(one.thesis, other.thesis)] or ["thesis"]
        return fields


class DiscoveryIntake:
    """What a run of an engine's discovery found: each candidate is a decision of type IGNORE."""

    kind = Kind.discovery_data

    def read(self, body: Mapping[str, Any], book: str, given_id: str | None, now: datetime) -> Read:
        """See Intake."""
        named = {} if "discovery_id" in body else {"discovery_id": _id_of(self.kind, body, book, given_id)}
        discovery = DiscoveryMessage.model_validate({"book": book, **body, **named})
        _not_in_the_future(discovery.timestamp, now)
        return Read((book, discovery.discovery_id), discovery.discovery_id, discovery)

    async def record(self, session: AsyncSession, messages: Mapping[Key, DiscoveryMessage], now: datetime) -> Recorded:
        """See Intake."""
        recorded, taken = await _of_open_books(session, messages)
        found = await store.decisions.record_discoveries(session, taken, now)
        recorded.new, recorded.differing = found.new, found.differing
        return recorded

    def differing(self, one: DiscoveryMessage, other: DiscoveryMessage) -> list[str]:
        """See Intake."""
        return _differing(one, other)


class TradeOutcomeIntake:
    """Changes of positions. A CLOSE whose data are a whole close is attributed like one."""

    kind = Kind.trade_outcome

    def read(self, body: Mapping[str, Any], book: str, given_id: str | None, now: datetime) -> Read:
        """See Intake."""
        named = {} if "change_id" in body else {"change_id": _id_of(self.kind, body, book, given_id)}
        change = TradeChangeMessage.model_validate({"book": book, **body, **named})
        _not_in_the_future(change.timestamp, now)
        return Read((book, change.change_id), change.change_id, change)

    async def record(
        self, session: AsyncSession, messages: Mapping[Key, TradeChangeMessage], now: datetime
    ) -> Recorded:
        """See Intake."""
        recorded, taken = await _of_open_books(session, messages)
        found = await store.decisions.record_trade_changes(session, taken, now)
        recorded.new = found.new
        recorded.differing |= found.differing
        # Of a change that is not taken, neither is the close.
        kept = {key: change for key, change in taken.items() if key not in recorded.differing}
        closes = {key: close for key, change in kept.items() if (close := decisions.close_of(change)) is not None}
        keys = list(closes)
        refused, of_closes = await record_closes(session, list(closes.values()), now, attributed=False)
        recorded.refused |= {keys[index]: why.reason for index, why in refused.items()}
        for key, close in closes.items():
            if key not in recorded.refused and (fields := of_closes.differing.get(close.key)):
                recorded.differing[key] = fields
        stays_out = recorded.new & (recorded.refused.keys() | recorded.differing.keys())
        await store.decisions.take_back_trade_changes(session, sorted(stays_out))
        recorded.new -= stays_out
        recorded.closes = [close for key, close in closes.items() if close.key in of_closes.new]
        return recorded

    def differing(self, one: TradeChangeMessage, other: TradeChangeMessage) -> list[str]:
        """See Intake."""
        return _differing(one, other)


def _not_in_the_future(stated: datetime | None, now: datetime) -> None:
    if stated is not None and stated > now + CLOCK_DIFFERENCE:
        raise Unreadable([FieldError("timestamp", "must not be more than 5 minutes in the future")])


async def _of_open_books(session: AsyncSession, messages: Mapping[Key, Any]) -> tuple[Recorded, dict[Key, Any]]:
    """Those of messages whose book was not removed; the others are refused."""
    archived = await store.books.archived(session, {book for book, _ in messages})
    refused = {key: f"book: {archived_sentence(archived[key[0]])}" for key in messages if key[0] in archived}
    return Recorded(refused=refused), {key: message for key, message in messages.items() if key not in refused}


def _differing(one: BaseModel, other: BaseModel) -> list[str]:
    return [name for name in type(one).model_fields if getattr(one, name) != getattr(other, name)]


INTAKES: Mapping[str, Intake] = {
    intake.kind: intake
    for intake in (
        PositionIntake(),
        ForecastIntake(),
        HeartbeatIntake(),
        SignalIntake(),
        ThesisIntake(),
        DiscoveryIntake(),
        TradeOutcomeIntake(),
    )
}
