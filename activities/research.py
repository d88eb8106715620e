"""Research: what closed is read by a language model, or by statistics where there is none, and hypotheses are tested.

What a model says is stored beside what it cost, and changes nothing else.
"""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.exceptions import ApplicationError

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.books import check_open
from closeloop.activities.heartbeats import beating
from closeloop.activities.metered_model import Answered, MeteredModel
from closeloop.activities.research_facts import book_facts, unread_trades
from closeloop.activities.transactions import transaction
from closeloop.gateways.language_model import LanguageModel
from closeloop.learning.research import (
    BOOK_PROMPT_VERSION,
    STATISTICS,
    TRADE_PROMPT_VERSION,
    book_question,
    book_sentences,
    judge,
    trade_question,
    trade_sentences,
)
from closeloop.models.bounded import BOOKS
from closeloop.models.events import EventType
from closeloop.models.model_calls import Answer, QuestionCost
from closeloop.models.policy import LearningPolicy, hash_of
from closeloop.models.readings import Hypothesis, TradeReading, TradeToRead
from closeloop.models.research import (
    BooksToStudy,
    BooksToStudyRequest,
    BookStudy,
    Statement,
    StatementKind,
    StatementStatus,
    Studied,
)
from closeloop.store.database import Sessions

PAGE_TRADES = 200  # unread trades that are loaded at once
LONGEST_READING = timedelta(minutes=40)  # of one book's trades; the rest is left to the next run
DEFECT_ATTEMPTS = 3  # after which a book whose study fails is given up for this run
BROKEN_BOOK = "BrokenBook"


def research_hash(policy: LearningPolicy) -> str:
    """The hash of what research reads of the policy."""
    return hash_of(policy.patterns, policy.mining, policy.research)


class ResearchActivities:
    """Asks ``model`` within ``budget`` (USD a day, UTC); without a model, statistics write."""

    def __init__(
        self, sessions: Sessions, policy: LearningPolicy, model: LanguageModel | None, budget: Decimal
    ) -> None:
        self._sessions = sessions
        self._policy = policy
        self._model = None if model is None else MeteredModel(sessions, model, budget)

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.books_to_study, self.read_trades, self.look_over]

    @activity.defn(name="books_to_study")
    async def books_to_study(self, asked: BooksToStudyRequest) -> BooksToStudy:
        """Books with live closes that nobody read, or with readings that nobody looked over; the first 1,000."""
        async with transaction(self._sessions) as session:
            return BooksToStudy(books=await store.research.books_due(session, asked.as_of, BOOKS))

    # -- level 1: each trade -------------------------------------------------------------------------------------

    @activity.defn(name="read_trades")
    async def read_trades(self, study: BookStudy) -> Studied:
        """Tags and an observation for each live close that nobody read, one after the other."""
        done = Studied()
        end = time.monotonic() + LONGEST_READING.total_seconds()
        async with _studying():
            while time.monotonic() < end and not done.stopped:
                async with transaction(self._sessions) as session:
                    await check_open(session, study.book)
                    await store.research.advance_watermark(session, study.book)
                    trades = await unread_trades(session, study.book, study.as_of, PAGE_TRADES, self._policy)
                if not trades:
                    return done
                if self._model is None:
                    await self._write_readings(study, trades)
                    done.trades += len(trades)
                    continue
                for position_id, trade in trades.items():
                    activity.heartbeat(position_id)
                    done.stopped = await self._read(self._model, study, position_id, trade, done)
                    if done.stopped or time.monotonic() >= end:
                        break
            async with transaction(self._sessions) as session:
                done.left = await store.research.unread_count(session, study.book, study.as_of)
        return done

    async def _read(
        self, model: MeteredModel, study: BookStudy, position_id: str, trade: TradeToRead, done: Studied
    ) -> str | None:
        """Read one trade; why nothing more is to be asked today, if so."""
        statement = self._observation(study, position_id, by=model.name, version=TRADE_PROMPT_VERSION)
        said = await model.ask(trade_question(trade, self._policy.research), statement.dedupe_key, study.book)
        if isinstance(said, Answered):
            await self._keep(model, said, [replace(statement, content=_content(said.answer))])
            done.trades += 1
        elif said.why == "exhausted":
            await self._give_up(statement, said.sentence)
            done.given_up += 1
        else:
            return said.sentence
        return None

    async def _write_readings(self, study: BookStudy, trades: Mapping[str, TradeToRead]) -> None:
        statements = [
            replace(
                self._observation(study, position_id, by=STATISTICS, version=STATISTICS),
                content=_content(trade_sentences(trade, self._policy.research)),
            )
            for position_id, trade in trades.items()
        ]
        async with transaction(self._sessions) as session:
            await store.research.write(session, statements)

    def _observation(self, study: BookStudy, position_id: str, *, by: str, version: str) -> Statement:
        key = store.research.question_key(study.book, 1, version, position_id)
        return self._statement(
            study, key, level=1, kind=StatementKind.observation, by=by, version=version, about=position_id
        )

    # -- level 2: the book ---------------------------------------------------------------------------------------

    @activity.defn(name="look_over")
    async def look_over(self, study: BookStudy) -> Studied:
        """A report and hypotheses, each tested, once for the closes that were read since the last time."""
        async with _studying():
            async with transaction(self._sessions) as session:
                if not await store.research.newly_read(session, study.book):
                    return Studied()
                facts = await book_facts(session, study.book, study.as_of, self._policy)
            question = book_question(facts, self._policy.mining, self._policy.research)
            model = self._model
            by, version = (model.name, BOOK_PROMPT_VERSION) if model else (STATISTICS, STATISTICS)
            key = store.research.question_key(study.book, 2, version, store.research.digest_of(question.text))
            report = self._statement(study, key, level=2, kind=StatementKind.report, by=by, version=version)
            async with transaction(self._sessions) as session:
                if model is None:
                    said_by_statistics = {"report": book_sentences(facts).report}
                    await store.research.write(session, [replace(report, content=said_by_statistics)])
                    return Studied()
                if await store.research.is_answered(session, key):
                    return Studied()  # the same facts were asked about before: nothing is paid for twice
            said = await model.ask(question, key, study.book)
            if isinstance(said, Answered):
                async with transaction(self._sessions) as session:
                    tested = await self._tested(session, study, said.answer.hypotheses, report)
                await self._keep(model, said, [replace(report, content={"report": said.answer.report}), *tested])
                return Studied(hypotheses=len(tested))
            if said.why == "exhausted":
                await self._give_up(report, said.sentence)
                return Studied(given_up=1)
            return Studied(stopped=said.sentence)

    async def _tested(
        self, session: AsyncSession, study: BookStudy, hypotheses: list[Hypothesis], report: Statement
    ) -> list[Statement]:
        """Each hypothesis with what the trades say of it."""
        statements = []
        for number, hypothesis in enumerate(hypotheses, 1):
            inside, outside, days = await store.research.samples(session, study.book, hypothesis, study.as_of)
            found = judge(hypothesis, inside, outside, days, beside=len(hypotheses), mining=self._policy.mining)
            statements.append(
                replace(
                    report,
                    dedupe_key=f"{report.dedupe_key}/{number}",
                    kind=StatementKind.hypothesis,
                    status=StatementStatus(found.status),
                    content=hypothesis.model_dump(mode="json") | {"tested": found.model_dump(mode="json")},
                )
            )
        return statements

    # -- what is stored ------------------------------------------------------------------------------------------

    def _statement(
        self,
        study: BookStudy,
        key: str,
        *,
        level: int,
        kind: StatementKind,
        by: str,
        version: str,
        about: str | None = None,
    ) -> Statement:
        return Statement(
            dedupe_key=key,
            book_id=study.book,
            position_id=about,
            kind=kind,
            level=level,
            model=by,
            prompt_version=version,
            as_of=study.as_of,
            run=activity.info().workflow_run_id or "",
            policy_hash=research_hash(self._policy),
        )

    async def _keep(self, model: MeteredModel, said: Answered[Answer], statements: list[Statement]) -> None:
        async def keep(session: AsyncSession, spent: QuestionCost) -> None:
            await store.research.write(session, _priced(statements, spent))

        await model.settle(said, keep)

    async def _give_up(self, statement: Statement, reason: str) -> None:
        async with transaction(self._sessions) as session:
            spent = await store.model_calls.cost_of(session, statement.dedupe_key)
            given_up = replace(statement, status=StatementStatus.given_up, content={"reason": reason})
            await store.research.write(session, _priced([given_up], spent))
            payload = {
                "book": statement.book_id,
                "position_id": statement.position_id,
                "level": statement.level,
                "reason": reason,
            }
            await store.events.append(session, (EventType.research_given_up, statement.dedupe_key, payload))


@asynccontextmanager
async def _studying() -> AsyncIterator[None]:
    """Send heartbeats, and fail the book for good after a few attempts that raised an unexpected error."""
    async with beating():
        try:
            yield
        except ApplicationError:
            raise  # whoever raised it has decided whether it is retried
        except Exception as error:
            if activity.info().attempt < DEFECT_ATTEMPTS:
                raise
            reason = f"{type(error).__name__}: {error}"[:300]
            raise ApplicationError(reason, type=BROKEN_BOOK, non_retryable=True) from error


def _priced(statements: list[Statement], spent: QuestionCost) -> list[Statement]:
    """The first statement bears what all calls of the question cost; the others came with it."""
    first = replace(
        statements[0],
        cost_usd=spent.cost,
        input_tokens=spent.usage.input_tokens,
        output_tokens=spent.usage.output_tokens,
    )
    return [first, *statements[1:]]


def _content(reading: TradeReading) -> dict[str, object]:
    return reading.model_dump(mode="json")
