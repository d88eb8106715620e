"""The largest state that the doors admit, as each activity and workflow would answer it."""

from datetime import UTC, datetime
from typing import Any

from closeloop.activities.corpus import MAX_LISTED
from closeloop.activities.learners import REASON_CHARACTERS
from closeloop.activities.prices import MOST_FAILURES_TOLD, MOST_RANGES_TOLD
from closeloop.models.approvals import ApprovalAnswer, ApprovalState, StartedAgain
from closeloop.models.bounded import BOOKS, FAILURES, add_failure, first_names
from closeloop.models.bounded import REASON_CHARACTERS as REASON
from closeloop.models.corpus import CorpusReport, SkillScored, SkillSkipped
from closeloop.models.decisions import FillReport
from closeloop.models.forecasts import ForecastReport, PagesResolved, ResolutionReport
from closeloop.models.imports import BookCounts, ImportReport
from closeloop.models.lessons import BookNames, BuiltLessons, LessonReport, SkippedGroup
from closeloop.models.market import Driver, MarketState, Timeframe
from closeloop.models.market_contexts import FilledContexts, MarketBackfillReport
from closeloop.models.market_runs import NOT_ASKED, MarketReport
from closeloop.models.market_series import MarketAdvanced, SeriesAdvanced
from closeloop.models.market_sources import MarketCollected, SourceStanding, Unpolled
from closeloop.models.meta import MetaReport
from closeloop.models.overrides import Materialized, OverrideReport
from closeloop.models.patterns import LearnMissedReport
from closeloop.models.periods import DueAnswer, DueWorkReport, PeriodicTask
from closeloop.models.positions import (
    AttributedClose,
    CatchUpReport,
    CloseReport,
    KarmaRebuildReport,
    KarmaStep,
    LearnReport,
    NotedField,
    PositionOutcome,
    ReceivedReport,
)
from closeloop.models.prices import PricesFetched
from closeloop.models.producers import PerformanceReport
from closeloop.models.research import BooksToStudy, ResearchReport, Studied
from closeloop.models.retention import Leaving, LeftBatch, RetentionReport, TableLeft
from closeloop.models.values import MAX_MESSAGE_BYTES
from closeloop.models.weights import (
    CurrentCycle,
    CycleKey,
    CycleStanding,
    CycleState,
    DispatchReport,
    DomainEvidence,
    OpenedCycle,
    OverlayReport,
)
from closeloop.services.imports import BOOKS_AN_IMPORT
from closeloop.store.market.sources import MOST_LISTED
from closeloop.workflows.books import BOOKS_A_PAGE
from closeloop.workflows.weight_adjustment import DUE_PAGE, DUE_PAGES_A_RUN

AT = datetime(2026, 1, 1, tzinfo=UTC)
COUNT = 10**12
RATIO = -0.12345678901234567
TEXT = '"' * 200  # as long as an identifier may be, and written twice as long in JSON
IDS = [f"{n:04}" + '"' * 196 for n in range(1_000)]  # as many and as long as a message's identifiers may be
LONG = "é" * 10_000
HASH = "x" * 64
BOOK = "b" * 64
MANY_BOOKS = [f"{i:064}" for i in range(20_000)]  # as long as a book's name may be
LISTED = MANY_BOOKS[:BOOKS]
FILE_NAMES = ["\x01" * 250] * MAX_LISTED  # as long as a file's name may be, and written six times as long
WORKFLOW = f"override/{BOOK}/{TEXT}"
DOMAINS = IDS[:64]  # as many as a preset may have


def _failed() -> dict[str, str]:
    failed: dict[str, str] = {}
    for book in MANY_BOOKS:
        add_failure(failed, book, LONG)
    return failed


def _outcome() -> PositionOutcome:
    """Of a message as large as one may be, all of it names of producers."""
    producers = [*IDS, *IDS][: MAX_MESSAGE_BYTES // len(TEXT) // 2]
    return PositionOutcome(
        book=BOOK,
        position_id=TEXT,
        symbol=TEXT,
        direction="short",
        opened_at=AT,
        closed_at=AT,
        realized_pnl="-" + "9" * 60,
        rr=RATIO,
        time_held_hours=RATIO,
        max_drawdown_pct=RATIO,
        max_favorable_pct=RATIO,
        direction_correct=False,
        regime_at_entry=TEXT,
        conviction_id=TEXT,
        conviction_status="recorded",  # its scores came in a message of their own
        domain_scores_at_entry=dict.fromkeys(IDS[:256], RATIO),
        producers=producers,
        attributed_at=AT,
        attributed_by=TEXT,
        cycle_id=TEXT,
        completed_at=AT,
        policy_hash=HASH,
    )


def _steps(outcome: PositionOutcome) -> list[KarmaStep]:
    return [KarmaStep(producer_id=name, before=-RATIO, after=-RATIO) for name in outcome.producers]


def _lessons() -> LessonReport:
    report = LessonReport(failed=_failed())
    for book in MANY_BOOKS:
        report.add(_built(book))
    return report


def _built(book: str) -> BuiltLessons:
    groups = [SkippedGroup(pattern_key=TEXT, action_category=TEXT, reason=TEXT)] * 20
    counts = {name: COUNT for name, field in BuiltLessons.model_fields.items() if field.annotation is int}
    return BuiltLessons(
        **counts, version=COUNT, book=book, as_of=AT, skipped_groups=groups, strongest=TEXT, policy_hash=HASH
    )


def _filled() -> FilledContexts:
    counts = {name: COUNT for name, field in FilledContexts.model_fields.items() if field.annotation is int}
    return FilledContexts(**counts, no_states_first=AT, no_states_last=AT, last=TEXT)


def _sources() -> list[SourceStanding]:
    """Of a policy with as many components as there may be, each as long as its name in the table may be."""
    return [
        SourceStanding(
            source=f"{n}{TEXT}",
            asked_at=AT,
            answered_at=AT,
            updated_at=AT,
            collected_until=AT,
            failures=COUNT,
            reason=LONG[:500],
            next_attempt_at=AT,
        )
        for n in range(MOST_LISTED)
    ]


def _collected() -> MarketCollected:
    sources = _sources()
    return MarketCollected(
        mode="sources",
        candles={one.source: COUNT for one in sources},
        polled=True,
        without=dict.fromkeys((Driver.btc_d, Driver.usdt_d), LONG[:500]),
        unpolled=Unpolled(from_at=AT, to_at=AT),
        sources=sources,
        more=True,
    )


def _advanced(timeframe: Timeframe) -> MarketAdvanced:
    series = [
        SeriesAdvanced(
            driver=driver,
            bars=COUNT,
            bars_changed=COUNT,
            states=COUNT,
            states_changed=COUNT,
            bar_end=AT,
            state=MarketState.s3,
            published=True,
        )
        for driver in Driver
    ]
    return MarketAdvanced(timeframe=timeframe, series=series, failed=dict.fromkeys(Driver, LONG[:REASON]), more=True)


def _market() -> MarketReport:
    report = MarketReport(timeframe=Timeframe.d1, until=AT, not_asked=NOT_ASKED)
    report.collected(_collected())
    for timeframe in Timeframe:
        report.advanced(_advanced(timeframe))
    return report


def _overrides() -> OverrideReport:
    report = OverrideReport(failed=_failed())
    for book in MANY_BOOKS:
        report.add(Materialized(book=book, as_of=AT, policy_hash=HASH))
    return report


def _research() -> ResearchReport:
    report = ResearchReport(failed=_failed())
    for book in MANY_BOOKS:
        report.add(book, Studied(trades=COUNT, stopped=TEXT))
    return report


def _opened() -> OpenedCycle:
    evidence = DomainEvidence(n=COUNT, r=RATIO, ci_low=RATIO, ci_high=RATIO, p=RATIO, q=RATIO)
    return OpenedCycle(
        cycle_id=f"{BOOK}/2026-W01",
        workflow_id=WORKFLOW,
        book=BOOK,
        as_of=AT,
        state=CycleState.proposed,
        reason=TEXT,
        old=dict.fromkeys(DOMAINS, RATIO),
        new=dict.fromkeys(DOMAINS, RATIO),
        evidence=dict.fromkeys(DOMAINS, evidence),
        deadline=AT,
        predecessor=WORKFLOW,
        unknown_domains=first_names(IDS),
        sentence=TEXT * 200,
        self_approval=TEXT,
    )


def largest() -> list[Any]:
    """One answer of each type, or several where a type's parts cannot all be largest together."""
    outcome, failed = _outcome(), _failed()
    learning = LearnReport(learned=IDS[:2], failed=dict.fromkeys(IDS[:2], LONG[:REASON_CHARACTERS]))
    counts = BookCounts(
        read=COUNT, attributed=COUNT, already_attributed=COUNT, still_open=COUNT, corrected=COUNT, repeated=COUNT
    )
    waits = [CurrentCycle(book=book, cycle_id=f"{book}/2026-W01", as_of=AT) for book in MANY_BOOKS[:DUE_PAGE]]
    return [
        ApprovalAnswer(
            accepted=False, state=ApprovalState.withdrawn, reason='"' * 2_000, operator=TEXT, sender='"' * 1_000
        ),
        ApprovalState.withdrawn,
        StartedAgain(names=[WORKFLOW] * 20, failed={f"{n}{WORKFLOW}": LONG[:REASON] for n in range(20)}),
        AT,
        CorpusReport(
            scored=[SkillScored(name=name, before=-COUNT, after=COUNT, matches=COUNT) for name in FILE_NAMES],
            promoted=FILE_NAMES,
            archived=FILE_NAMES,
            skipped=[SkillSkipped(skill=f"archived/{name}.md", reason='"' * 300) for name in FILE_NAMES],
            unlisted=COUNT,
        ),
        ForecastReport(forecast_id=TEXT, already_recorded=True),
        PagesResolved(left=COUNT, after=(AT, BOOK, TEXT)),
        # Those of which the scores, the recalibration and the meta-producer fail: each may be another book's.
        ResolutionReport(as_of=AT, reasons=dict.fromkeys(LISTED[:FAILURES], 1), failed=failed, workflow_id=WORKFLOW),
        ImportReport(import_id=HASH, books=dict.fromkeys(MANY_BOOKS[:BOOKS_AN_IMPORT], counts)),
        BookNames(books=MANY_BOOKS[:BOOKS_A_PAGE]),
        BooksToStudy(books=LISTED),
        _built(BOOK),
        _lessons(),
        MetaReport(emitted=COUNT, shadowed=COUNT, abstained=dict.fromkeys(IDS[:20], COUNT), failed=failed),
        Materialized(book=BOOK, as_of=AT, policy_hash=HASH),
        _overrides(),
        LearnMissedReport(learned=dict.fromkeys(IDS[:2], COUNT), failed=learning.failed),
        DueAnswer(as_of=AT, done=AT),
        LeftBatch(rows=COUNT, bytes=COUNT, more=True),
        _filled(),
        MarketBackfillReport(book=BOOK, **_filled().model_dump()),
        _collected(),
        _advanced(Timeframe.m1),
        _market(),
        RetentionReport(
            as_of=AT,
            left={table: TableLeft(rows=COUNT, batches=COUNT, bytes=COUNT) for table in Leaving},
            failed=dict.fromkeys(Leaving, LONG[:REASON]),
        ),
        DueWorkReport(task=PeriodicTask.lessons, as_of=AT, workflow_id=WORKFLOW),
        AttributedClose(
            outcome=outcome,
            already_attributed=False,
            karma=_steps(outcome),
            learning=learning,
            noted=[NotedField(field=LONG[:300], reason=LONG[:300])] * 20,
            learners=IDS[:2],
        ),
        CloseReport(
            outcome=outcome,
            already_attributed=False,
            karma=_steps(outcome),
            learned=learning.learned,
            not_learned=learning.failed,
            noted=[NotedField(field=TEXT, reason=LONG[:500])] * 100,
            sentence=TEXT * 5,
        ),
        CatchUpReport(started=COUNT, running_already=COUNT, unattributable=COUNT),
        ReceivedReport(attributed=COUNT, refused=COUNT),
        FillReport(as_of=AT, decisions=COUNT, filled=COUNT, closed=COUNT, pending=COUNT, unresolvable=COUNT),
        KarmaRebuildReport(
            producers=dict.fromkeys(LISTED, COUNT),
            failed=failed,
            unlisted=COUNT,
            policy_hash=HASH,
            karma={"start": RATIO, "up": RATIO, "down": RATIO},
        ),
        learning,
        PricesFetched(
            answered={f"{n}{TEXT}": [(AT, AT)] for n in range(MOST_RANGES_TOLD)},
            failures={f"{n}{TEXT}": LONG[:REASON] for n in range(MOST_FAILURES_TOLD // 2)},
            unknown=[TEXT] * (MOST_FAILURES_TOLD // 2),
            silence=LONG[:REASON],
        ),
        PerformanceReport(books=LISTED, recalibrations=[f"{b}/{TEXT}/{COUNT}" for b in LISTED], failed=failed),
        _research(),
        Studied(trades=COUNT, hypotheses=COUNT, given_up=COUNT, left=COUNT, stopped=TEXT),
        CycleStanding(state=CycleState.no_adjustment, next_has_begun=True),
        DispatchReport(started=[f"{book}/2026-W01" for book in MANY_BOOKS[: DUE_PAGE * DUE_PAGES_A_RUN]]),
        _opened(),
        OverlayReport(
            repaired=LISTED, deleted=[CycleKey(cycle_id=f"{b}/2026-W01", book=b) for b in LISTED], failed=failed
        ),
        waits,
        None,
        True,
    ]
