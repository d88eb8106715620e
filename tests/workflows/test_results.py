"""What workflows and activities answer is bounded; what is too large fails with a type, and is not given for ever."""

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import BaseModel
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.worker import Worker

from closeloop import store
from closeloop.models.bounded import BOOKS, CHARACTERS, FAILURES, MORE, NAMES, add_failure, first_names
from closeloop.models.forecasts import ResolutionReport
from closeloop.models.imports import BookCounts, ImportReport
from closeloop.models.lessons import BuiltLessons, LessonReport, SkippedGroup
from closeloop.models.overrides import Materialized, OverrideReport
from closeloop.models.patterns import LearnMissed
from closeloop.models.positions import KarmaRebuildReport
from closeloop.models.producers import PerformanceReport
from closeloop.models.research import ResearchReport, Studied
from closeloop.models.weights import CurrentCycle, CurrentCyclesRequest, CycleKey, DispatchReport, OverlayReport
from closeloop.services.imports import BOOKS_AN_IMPORT
from closeloop.workflows.results import MAX_ANSWER_BYTES, TOO_LARGE, AnswerSize
from closeloop.workflows.weight_adjustment import DUE_PAGE, DUE_PAGES_A_RUN
from tests.activities.weighing import Desk, desk_on

AT = datetime(2026, 1, 1, tzinfo=UTC)
MANY = 20_000
TEXT = '"' * 200  # as long as an identifier may be, and written twice as long in JSON
REASON = "é" * 10_000
BOOK_NAMES = [f"{i:064}" for i in range(MANY)]  # as long as a book's name may be
LARGE = 3_000_000


@activity.defn(name="answer")
async def answer(size: int) -> str:
    return "x" * size


@activity.defn(name="take")
async def take(text: str) -> str:
    return text[:1]


@workflow.defn(name="Answers", sandboxed=False)
class Answers:
    """Answers something large itself, lets an activity do it, or asks one something large."""

    @workflow.run
    async def run(self, who: str) -> str:
        """See the class. An activity is retried for ever, as ours are."""
        limit = timedelta(minutes=1)
        if who == "activity":
            return await workflow.execute_activity(answer, LARGE, start_to_close_timeout=limit)
        if who == "question":
            return await workflow.execute_activity(take, "x" * LARGE, start_to_close_timeout=limit)
        return "x" * (LARGE if who == "workflow" else 1_000_000)


@pytest.mark.parametrize(
    ("who", "what"),
    [
        ("activity", "the answer of answer"),
        ("workflow", "the answer of Answers"),
        ("question", "what take is asked"),
    ],
)
async def test_what_is_too_large_fails_with_a_type(client: Client, who: str, what: str) -> None:
    queue = f"results-{uuid.uuid4().hex}"
    async with Worker(
        client, task_queue=queue, workflows=[Answers], activities=[answer, take], interceptors=[AnswerSize()]
    ):
        with pytest.raises(WorkflowFailureError) as failed:
            await client.execute_workflow("Answers", who, id=queue, task_queue=queue)
        cause = failed.value.cause
        if isinstance(cause, ActivityError):
            cause = cause.cause
        assert isinstance(cause, ApplicationError)
        assert (cause.type, what in cause.message) == (TOO_LARGE, True)
        assert len(await client.execute_workflow("Answers", "small", id=f"{queue}-s", task_queue=queue)) == 1_000_000


def test_names_are_cut_and_counted() -> None:
    assert first_names(["a", "b"]) == ["a", "b"]
    cut = first_names([TEXT] * 70)
    assert (len(cut), {len(name) for name in cut[:NAMES]}, cut[-1]) == (NAMES + 1, {CHARACTERS}, "and 50 more")


def test_failures_are_cut_and_the_first_are_named() -> None:
    failed: dict[str, str] = {}
    for book in [*BOOK_NAMES, BOOK_NAMES[0]]:
        add_failure(failed, book, REASON)
    assert list(failed) == [*BOOK_NAMES[:FAILURES], MORE]
    assert "status" in failed[MORE]


def largest() -> list[BaseModel | list[CurrentCycle]]:
    """Reports of 20,000 books that all fail, or all have the most to say."""
    failed: dict[str, str] = {}
    lessons, overrides, research = LessonReport(failed=failed), OverrideReport(failed=failed), ResearchReport()
    groups = [SkippedGroup(pattern_key=TEXT, action_category=TEXT, reason=TEXT)] * 20
    for book in BOOK_NAMES:
        add_failure(failed, book, REASON)
        lessons.add(BuiltLessons(book=book, as_of=AT, skipped_groups=groups, policy_hash="x" * 64))
        overrides.add(Materialized(book=book, as_of=AT, policy_hash="x" * 64))
        research.add(book, Studied(trades=10**9, stopped=TEXT))
    research.failed = failed
    listed = BOOK_NAMES[:BOOKS]
    count = 10**12
    counts = BookCounts(read=count, attributed=count, already_attributed=count, still_open=count, corrected=count)
    return [
        lessons,
        overrides,
        research,
        KarmaRebuildReport(producers=dict.fromkeys(listed, 10**6), failed=failed, unlisted=MANY),
        PerformanceReport(books=listed, recalibrations=[f"{b}/{TEXT}" for b in listed], failed=failed),
        OverlayReport(
            repaired=listed, deleted=[CycleKey(cycle_id=f"{b}/2026-W01", book=b) for b in listed], failed=failed
        ),
        # Those of which the scores, the recalibration and the meta-producer fail: each may be another book's.
        ResolutionReport(as_of=AT, reasons=dict.fromkeys(BOOK_NAMES[:FAILURES], 1), failed=failed),
        ImportReport(import_id="i", books=dict.fromkeys(BOOK_NAMES[:BOOKS_AN_IMPORT], counts)),
        LearnMissed(books=BOOK_NAMES[:BOOKS_AN_IMPORT]),
        [CurrentCycle(book=book, cycle_id=f"{book}/2026-W01") for book in BOOK_NAMES[:DUE_PAGE]],
        DispatchReport(started=[f"{book}/2026-W01" for book in BOOK_NAMES[: DUE_PAGE * DUE_PAGES_A_RUN]]),
    ]


def test_the_largest_reports_are_taken_by_temporal() -> None:
    for report in largest():
        [payload] = pydantic_data_converter.payload_converter.to_payloads([report])
        assert payload.ByteSize() < MAX_ANSWER_BYTES, type(report)
    lessons = largest()[0]
    assert isinstance(lessons, LessonReport)
    assert (len(lessons.books), lessons.unlisted) == (BOOKS, MANY - BOOKS)


@pytest.fixture
async def empty(dsn: str, client: Client, tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk with no books but the test's."""
    async with desk_on(dsn, client, tmp_path) as desk:
        yield desk


async def test_due_cycles_come_by_the_page(empty: Desk, book: str) -> None:
    """Page by page the same as at once."""
    async with empty.sessions.begin() as session:
        for i in range(7):
            await store.books.hold(session, f"{book}-{i}")
    cycles = empty.cycles()
    at_once = await cycles.books_due(CurrentCyclesRequest(as_of=AT))
    paged: list[CurrentCycle] = []
    while page := await cycles.books_due(
        CurrentCyclesRequest(as_of=AT, after=paged[-1].book if paged else None, limit=3)
    ):
        assert len(page) <= 3
        paged += page
    assert paged == at_once
    assert [one.book for one in paged] == [f"{book}-{i}" for i in range(7)]
