"""What workflows and activities answer is bounded; what is too large fails with a type, and is not given for ever."""

import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from types import NoneType, UnionType
from typing import get_args

import pytest
from pydantic import BaseModel
from sqlalchemy import text
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.worker import Worker

from closeloop import store
from closeloop.activities.lessons import LessonActivities
from closeloop.models.bounded import BOOKS, CHARACTERS, FAILURES, MORE, NAMES, add_failure, first_names
from closeloop.models.lessons import LessonReport
from closeloop.models.policy import LearningPolicy
from closeloop.models.weights import CurrentCycle, CurrentCyclesRequest
from closeloop.workers.wiring import WORKFLOWS
from closeloop.workflows.books import BOOKS_A_PAGE, books_with_patterns
from closeloop.workflows.results import MAX_ANSWER_BYTES, TOO_LARGE, AnswerSize
from tests.activities.weighing import Desk, desk_on
from tests.workers.test_activities import every_activity
from tests.workflows.largest import AT, LONG, MANY_BOOKS, TEXT, largest

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


@workflow.defn(name="Pages", sandboxed=False)
class Pages:
    """Lists books as our workflows do."""

    @workflow.run
    async def run(self) -> list[str]:
        """See the class."""
        return [book async for book in books_with_patterns("which?")]


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
    for book in [*MANY_BOOKS, MANY_BOOKS[0]]:
        add_failure(failed, book, LONG)
    assert list(failed) == [*MANY_BOOKS[:FAILURES], MORE]
    assert "status" in failed[MORE]


def answers() -> dict[str, object]:
    """The type that each activity and each workflow answers with, by its name."""
    defined: list[activity._Definition | workflow._Definition] = [
        *map(activity._Definition.must_from_callable, every_activity()),
        *map(workflow._Definition.must_from_class, WORKFLOWS),
    ]
    return {f"{type(one).__module__} {one.name}": one.ret_type for one in defined}


def type_of(answer: object) -> object:
    """The type of an answer, of a list with that of its items."""
    return list[type(answer[0])] if isinstance(answer, list) else type(answer)  # type: ignore[misc]


def alternatives(annotation: object) -> tuple[object, ...]:
    if isinstance(annotation, UnionType):
        return get_args(annotation)
    return (NoneType if annotation is None else annotation,)


def test_every_answer_is_taken_by_temporal_however_much_there_is() -> None:
    """An activity or a workflow that is registered and whose type is not in largest.py fails this test."""
    sizes: dict[object, int] = {}
    for answer in largest():
        [payload] = pydantic_data_converter.payload_converter.to_payloads([answer])
        sizes[type_of(answer)] = max(payload.ByteSize(), sizes.get(type_of(answer), 0))
    answered = {one for annotation in answers().values() for one in alternatives(annotation)}
    assert answered - sizes.keys() == set(), "largest.py does not say how large these may be"
    assert sizes.keys() - answered == set(), "nothing answers with these any more"
    assert {kind: size for kind, size in sizes.items() if size >= MAX_ANSWER_BYTES} == {}
    assert sizes[LessonReport] > 300_000


def test_the_largest_answers_leave_no_field_empty() -> None:
    """A field that is added to what is answered with, and not to largest.py, fails this test."""
    empty = {
        f"{type(model).__name__}.{name}"
        for answer in largest()
        for model in models_in(answer)
        for name in type(model).model_fields
        if getattr(model, name) in (None, "", [], {})
    }
    left_out = {"BuiltLessons.skipped_groups", "BuiltLessons.strongest"}
    assert empty <= left_out, "those of a book far down a report are left out"


def models_in(value: object) -> Iterator[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
        for name in type(value).model_fields:
            yield from models_in(getattr(value, name))
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from models_in(item)


def test_reports_count_what_they_do_not_list() -> None:
    lessons = next(answer for answer in largest() if isinstance(answer, LessonReport))
    assert (len(lessons.books), lessons.unlisted) == (BOOKS, len(MANY_BOOKS) - BOOKS)


@pytest.fixture
async def empty(dsn: str, client: Client, tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk with no books but the test's."""
    async with desk_on(dsn, client, tmp_path) as desk:
        yield desk


async def test_books_come_by_the_page_in_a_workflow(empty: Desk, client: Client) -> None:
    """More books than one page holds: none is lost, and none comes twice."""
    names = [f"b-{n:04}" for n in range(BOOKS_A_PAGE + 7)]
    names += [name.upper() for name in names[:5]]  # before the others, in the order of bytes
    async with empty.sessions.begin() as session:
        await store.rows.execute(session, store.books.creating([*names, "without actions"]))
        await session.execute(
            text(
                "INSERT INTO positions (book_id, position_id, symbol, direction, opened_at, closed_at) "
                "SELECT b, 'p', 'X', 'long', now(), now() FROM unnest(CAST(:names AS text[])) b"
            ),
            {"names": names},
        )
        for table in ("attributions", "pattern_trade_events"):
            await session.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER ALL"))
        await session.execute(
            text(
                "INSERT INTO pattern_trade_events (book_id, position_id, action_index, pattern_key, action_category, "
                "symbol, scope, rr, pnl, opened_at, closed_at, policy_hash) "
                "SELECT b, 'p', 0, 'k', 'entry', 'X', '{}', 1, 1, now(), now(), 'x' "
                "FROM unnest(CAST(:names AS text[])) b"
            ),
            {"names": names},
        )
    queue = f"pages-{uuid.uuid4().hex}"
    activities = LessonActivities(empty.sessions, LearningPolicy())
    async with Worker(client, task_queue=queue, workflows=[Pages], activities=[activities.books]):
        found = await client.execute_workflow("Pages", id=queue, task_queue=queue, result_type=list[str])
    assert found == sorted(names)
    assert len(found) == len(set(found)) > BOOKS_A_PAGE


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
