"""Research: what closed is read by a language model, or by statistics where there is none, and hypotheses are tested.

What a model says is stored beside what it cost, and changes nothing else. Before each call the most that it can cost is
reserved; its end is settled in the transaction that stores the answer. A process that dies in between leaves its
reservation, which counts as paid, and keeps others from asking the same until it is over.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Generic

from pydantic import BaseModel
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.exceptions import ApplicationError

from closeloop import store
from closeloop.activities.heartbeats import beating
from closeloop.activities.transactions import AWAY, transaction
from closeloop.gateways.language_model import (
    LanguageModel,
    MalformedAnswer,
    ModelBusy,
    ModelError,
    ModelRejected,
    NoAnswer,
    most,
)
from closeloop.learning.research import (
    BOOK_PROMPT,
    STATISTICS,
    TRADE_PROMPT,
    book_question,
    book_sentences,
    fact,
    judge,
    trade_question,
    trade_sentences,
)
from closeloop.learning.scope import flatten
from closeloop.models.events import EventType
from closeloop.models.model_calls import Answer, CallOutcome, NotReserved, Question, Reserved, Usage
from closeloop.models.policy import LearningPolicy
from closeloop.models.readings import (
    DIMENSIONS,
    BookFacts,
    BookReading,
    GroupFacts,
    JudgedFacts,
    LessonFacts,
    Record,
    TradeFacts,
    TradeReading,
    TradeToRead,
)
from closeloop.models.research import BooksAsked, BookStudy, DueBooks, Kind, Status, Studied
from closeloop.store.database import Sessions

MODULE = "pm"
PAGE = 200
ATTEMPTS = 3  # of a question that was declined or answered in another shape
WORKING = timedelta(minutes=40)  # then the rest is left to the next run
HOLD = timedelta(seconds=60)  # beyond the model's own timeout
RECENT, LESSONS, GROUPS, VALUES, TESTED = 40, 40, 10, 6, 20
NEWEST_FACTS = 20_000
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True)
class _Answered(Generic[Answer]):
    call: Reserved
    answer: Answer
    usage: Usage


class ResearchActivities:
    """Asks ``model`` within ``budget`` (USD a day, UTC); without a model, statistics write."""

    def __init__(
        self, sessions: Sessions, policy: LearningPolicy, model: LanguageModel | None, budget: Decimal
    ) -> None:
        self._sessions = sessions
        self._policy = policy
        self._model = model
        self._budget = budget

    @activity.defn(name="books_to_study")
    async def books_to_study(self, asked: BooksAsked) -> DueBooks:
        """Books with live closes that nobody read, or with readings that nobody looked over."""
        async with transaction(self._sessions) as session:
            return DueBooks(books=await store.research.books_due(session, asked.as_of))

    # -- level 1 -------------------------------------------------------------------------------------------------

    @activity.defn(name="read_trades")
    async def read_trades(self, study: BookStudy) -> Studied:
        """Tags and an observation for each live close that nobody read, one after the other."""
        done = Studied()
        end = time.monotonic() + WORKING.total_seconds()
        async with beating():
            while time.monotonic() < end:
                async with transaction(self._sessions) as session:
                    await store.research.advance(session, study.book)
                    rows = await store.research.unread(session, study.book, study.as_of, PAGE)
                    book = Record.model_validate(await store.research.record(session, study.book, study.as_of))
                if not rows:
                    return done
                reads = {row["position_id"]: TradeToRead(trade=self._trade(row), book=book) for row in rows}
                if self._model is None:
                    await self._write_readings(study, reads)
                    done.trades += len(reads)
                    continue
                for position_id, read in reads.items():
                    activity.heartbeat(position_id)
                    stop = await self._read(self._model, study, position_id, read, done)
                    if stop is not None:
                        done.stopped = stop
                        break
                    if time.monotonic() >= end:
                        break
                if done.stopped:
                    break
            async with transaction(self._sessions) as session:
                done.left = await store.research.unread_count(session, study.book, study.as_of)
        return done

    async def _read(
        self, model: LanguageModel, study: BookStudy, position_id: str, read: TradeToRead, done: Studied
    ) -> str | None:
        """Read one trade; why nothing more is to be asked today, if so."""
        key = store.research.learned_key(study.book, 1, TRADE_PROMPT, position_id)
        row = _row(study, self._policy, key, 1, Kind.observation, model.name, TRADE_PROMPT, position_id)
        said = await self._ask(model, trade_question(read), key, study.book)
        if isinstance(said, _Answered):
            await self._settle(said.call, CallOutcome.answered, said.usage, None, key, [row | _stated(said.answer)])
            done.trades += 1
        elif said.why == "exhausted":
            await self._give_up(key, row, said.sentence)
            done.given_up += 1
        else:
            return said.sentence
        return None

    async def _write_readings(self, study: BookStudy, reads: dict[str, TradeToRead]) -> None:
        rows = []
        for position_id, read in reads.items():
            key = store.research.learned_key(study.book, 1, STATISTICS, position_id)
            row = _row(study, self._policy, key, 1, Kind.observation, STATISTICS, STATISTICS, position_id)
            rows.append(row | _stated(trade_sentences(read)))
        async with transaction(self._sessions) as session:
            await store.research.write(session, rows)

    def _trade(self, row: RowMapping) -> TradeFacts:
        scope = flatten(row["entry_context"], self._policy).values
        return TradeFacts(
            symbol=fact(row["symbol"]),
            direction=row["direction"],
            closed_at=row["closed_at"],
            time_held_hours=row["time_held_hours"],
            rr=row["rr"],
            won=row["won"],
            max_drawdown_pct=row["max_drawdown_pct"],
            max_favorable_pct=row["max_favorable_pct"],
            regime_at_entry=row["regime_at_entry"] and fact(row["regime_at_entry"]),
            exit_reason=row["exit_reason"] and fact(row["exit_reason"]),
            producers=[fact(name) for name in row["producers"][:20]],
            patterns=[fact(name) for name in row["patterns"][:20]],
            scope=_facts(dict(list(scope.items())[:DIMENSIONS])),
        )

    # -- level 2 -------------------------------------------------------------------------------------------------

    @activity.defn(name="look_over")
    async def look_over(self, study: BookStudy) -> Studied:
        """A report and hypotheses, each tested, once for the closes that were read since the last time."""
        async with beating():
            async with transaction(self._sessions) as session:
                if not await store.research.newly_read(session, study.book):
                    return Studied()
                facts = await self._book(session, study)
            question = book_question(facts)
            model = self._model
            name, version = (model.name, BOOK_PROMPT) if model else (STATISTICS, STATISTICS)
            key = store.research.learned_key(study.book, 2, version, store.research.digest(question.text))
            row = _row(study, self._policy, key, 2, Kind.report, name, version)
            if model is None:
                async with transaction(self._sessions) as session:
                    await store.research.write(session, [row | _stated(book_sentences(facts))])
                return Studied()
            async with transaction(self._sessions) as session:
                if await store.research.said(session, key):
                    return Studied()  # the same facts were asked about before: nothing is paid for twice
            said = await self._ask(model, question, key, study.book)
            if isinstance(said, _Answered):
                async with transaction(self._sessions) as session:
                    tested = await self._tested(session, study, said.answer, row)
                report = row | {"content": {"report": said.answer.report}}
                await self._settle(said.call, CallOutcome.answered, said.usage, None, key, [report, *tested])
                return Studied(hypotheses=len(tested))
            if said.why == "exhausted":
                await self._give_up(key, row, said.sentence)
                return Studied(given_up=1)
            return Studied(stopped=said.sentence)

    async def _book(self, session: AsyncSession, study: BookStudy) -> BookFacts:
        book, as_of = study.book, study.as_of
        lessons = await store.research.lessons(session, book, as_of, LESSONS)
        tested = await store.research.tested(session, book, TESTED)
        rows = await store.research.groups(session, book, as_of, NEWEST_FACTS, self._policy.mining.min_trades)
        return BookFacts(
            recent=[self._trade(row) for row in await store.research.recent(session, book, as_of, RECENT)],
            lessons=[
                LessonFacts.model_validate({**row, **_named(row), "scope": _facts(row["scope"])}) for row in lessons
            ],
            groups=_groups(rows),
            tested=[
                JudgedFacts(
                    **_named(row["content"]),
                    scope=_facts({c["dimension"]: c["value"] for c in row["content"]["conditions"]}),
                    claim=row["content"]["claim"],
                    status=row["status"],
                )
                for row in tested
            ],
        )

    async def _tested(
        self, session: AsyncSession, study: BookStudy, said: BookReading, row: dict[str, Any]
    ) -> list[dict[str, Any]]:
        rows = []
        for number, hypothesis in enumerate(said.hypotheses, 1):
            inside, outside, days = await store.research.samples(session, study.book, hypothesis, study.as_of)
            found = judge(hypothesis, inside, outside, days, beside=len(said.hypotheses), policy=self._policy)
            rows.append(
                row
                | {
                    "dedupe_key": f"{row['dedupe_key']}/{number}",
                    "kind": Kind.hypothesis,
                    "status": found.status,
                    "content": hypothesis.model_dump(mode="json") | {"tested": found.model_dump(mode="json")},
                }
            )
        return rows

    # -- asking --------------------------------------------------------------------------------------------------

    async def _ask(
        self, model: LanguageModel, question: Question[Answer], key: str, book: str
    ) -> _Answered[Answer] | NotReserved:
        """The answer with its call, which is yet to be settled; or why there is none."""
        while True:
            async with transaction(self._sessions) as session:
                call = await store.research.reserve(
                    session,
                    key=key,
                    book=book,
                    model=model.name,
                    version=question.version,
                    most=most(question, model.prices),
                    budget=self._budget,
                    attempts=ATTEMPTS,
                    hold=timedelta(seconds=model.timeout) + HOLD,
                    run=_run(),
                )
                if isinstance(call, NotReserved) and call.why == "over_budget":
                    about = f"{datetime.now(UTC):%Y-%m-%d}"
                    event = (EventType.research_over_budget, about, {"book": book, "reason": call.sentence})
                    await store.events.append(session, event)
            if isinstance(call, NotReserved):
                if call.why == "held":
                    after = timedelta(seconds=call.seconds + 1)
                    raise ApplicationError(call.sentence, type="QuestionHeld", next_retry_delay=after)
                return call
            try:
                answer, usage = await model.ask(question)
            except NoAnswer as error:
                await self._settle(call, CallOutcome.refused, error.usage, error, key)
            except MalformedAnswer as error:
                await self._settle(call, CallOutcome.malformed, error.usage, error, key)
            except ModelBusy as error:
                outcome = CallOutcome.busy if error.usage is not None else CallOutcome.unavailable
                await self._settle(call, outcome, error.usage, error, key)
                pause = None if error.pause is None else timedelta(seconds=error.pause)
                raise ApplicationError(f"the model: {error.reason}", type="ModelBusy", next_retry_delay=pause) from None
            except ModelRejected as error:
                await self._settle(call, CallOutcome.rejected, error.usage, error, key)
                raise ApplicationError(f"the model: {error.reason}", type="ModelRejected", non_retryable=True) from None
            else:
                return _Answered(call, answer, usage)

    async def _settle(
        self,
        call: Reserved,
        outcome: CallOutcome,
        usage: Usage | None,
        error: ModelError | None,
        key: str,
        rows: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Write down how a call ended, with what came of it; a database that is away for a moment is waited for."""
        assert self._model is not None, "somebody was asked"
        cost = None if usage is None else self._model.prices.cost(usage)
        reason = None if error is None else error.reason
        for pause in (*PAUSES, None):
            try:
                async with transaction(self._sessions) as session:
                    await store.research.settle(session, call, outcome, usage, cost, reason)
                    await store.research.write(session, await _priced(session, key, rows))
                return
            except ApplicationError as away:
                # It was paid for: asking again would cost as much again.
                if away.type != AWAY or pause is None:
                    raise
                await asyncio.sleep(pause)

    async def _give_up(self, key: str, row: dict[str, Any], reason: str) -> None:
        async with transaction(self._sessions) as session:
            given_up = row | {"status": Status.given_up, "content": {"reason": reason}}
            await store.research.write(session, await _priced(session, key, [given_up]))
            event = (
                EventType.research_given_up,
                key,
                {"book": row["book_id"], "position_id": row["position_id"], "level": row["level"], "reason": reason},
            )
            await store.events.append(session, event)


async def _priced(session: AsyncSession, key: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first row bears what all calls of the question cost; the others came with it."""
    if not rows:
        return []
    cost, usage = await store.research.cost_of(session, key)
    spent = {"cost_usd": cost, "input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    return [rows[0] | spent, *rows[1:]]


def _row(
    study: BookStudy,
    policy: LearningPolicy,
    key: str,
    level: int,
    kind: Kind,
    model: str,
    version: str,
    position_id: str | None = None,
) -> dict[str, Any]:
    return {
        "dedupe_key": key,
        "book_id": study.book,
        "position_id": position_id,
        "kind": kind,
        "level": level,
        "module": MODULE,
        "status": Status.stated,
        "content": {},
        "model": model,
        "prompt_version": version,
        "input_tokens": 0,
        "output_tokens": 0,
        "cost_usd": Decimal(0),
        "as_of": study.as_of,
        "run": _run(),
        "policy_hash": policy.policy_hash,
    }


def _stated(answer: TradeReading | BookReading) -> dict[str, BaseModel | dict[str, Any]]:
    return {"content": answer.model_dump(mode="json", exclude={"hypotheses"})}


def _run() -> str:
    return activity.info().workflow_run_id or ""


def _named(row: Any) -> dict[str, str]:
    return {name: fact(row[name]) for name in ("pattern_key", "action_category")}


def _facts(scope: dict[str, str]) -> dict[str, str]:
    return {fact(dimension): fact(value) for dimension, value in scope.items()}


def _groups(rows: Sequence[RowMapping]) -> list[GroupFacts]:
    """The largest groups, each dimension with its most frequent values."""
    found: dict[tuple[str, str], GroupFacts] = {}
    for row in rows:
        record = Record(trades=row["trades"], wins=row["wins"], avg_rr=row["avg_rr"])
        if not row["dimension"]:
            group = GroupFacts(**_named(row), record=record, dimensions={})
            found[row["pattern_key"], row["action_category"]] = group
            continue
        group = found[row["pattern_key"], row["action_category"]]
        values = group.dimensions.setdefault(fact(row["dimension"]), {})
        if len(values) < VALUES and len(group.dimensions) <= DIMENSIONS:
            values[fact(row["value"])] = record
    return sorted(found.values(), key=lambda group: -group.record.trades)[:GROUPS]
