"""The one place where objects are constructed."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from pydantic import SecretStr, ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from closeloop.activities import Activity
from closeloop.activities.approvals import ApprovalActivities
from closeloop.activities.corpus import CorpusActivities
from closeloop.activities.decisions import DecisionActivities
from closeloop.activities.forecasts import ForecastActivities
from closeloop.activities.imports import ImportActivities
from closeloop.activities.karma import KarmaActivities
from closeloop.activities.learners import Learner, LearnerActivities
from closeloop.activities.lessons import LessonActivities
from closeloop.activities.market_contexts import MarketContextActivities
from closeloop.activities.market_series import MarketSeriesActivities
from closeloop.activities.market_sources import MarketSourceActivities
from closeloop.activities.meta import MetaActivities
from closeloop.activities.overlays import OverlayActivities
from closeloop.activities.overrides import OverrideActivities
from closeloop.activities.patterns import MissedActivities, PatternEvents, TimeframeCoefficients
from closeloop.activities.periods import PeriodicActivities
from closeloop.activities.positions import PositionActivities
from closeloop.activities.prices import PriceActivities
from closeloop.activities.producers import ProducerActivities
from closeloop.activities.research import ResearchActivities
from closeloop.activities.retention import RetentionActivities
from closeloop.activities.weight_cycles import WeightCycleActivities
from closeloop.activities.weight_decisions import WeightDecisionActivities
from closeloop.activities.weights_0_1 import WeightsOf01
from closeloop.gateways.archive import ArchiveFolder
from closeloop.gateways.binance import Binance
from closeloop.gateways.coingecko import CoinGecko
from closeloop.gateways.language_model import AnthropicModel, LanguageModel, TokenPrices
from closeloop.gateways.overlay import OverlayFolder
from closeloop.gateways.postgres_tools import PostgresTools
from closeloop.gateways.presets import load_preset
from closeloop.gateways.skills import SkillFolder
from closeloop.models.launches import LLM_TASK_QUEUE, MARKET_TASK_QUEUE, TASK_QUEUE
from closeloop.models.market_sources import MarketMode
from closeloop.models.policy import LearningPolicy
from closeloop.services.approvals import Subjects
from closeloop.services.market_drivers import DriversProposal
from closeloop.services.meta_decisions import LeavingShadow
from closeloop.services.override_decisions import OverrideProposal
from closeloop.services.weight_decisions import WeightsProposal
from closeloop.store.database import open_engine, sessions_of
from closeloop.workers.addresses import database_url, temporal_config
from closeloop.workers.settings import Settings
from closeloop.workers.telemetry import Telemetry
from closeloop.workflows.approval import ApprovalWorkflow
from closeloop.workflows.backfill import BackfillWorkflow, KarmaRebuildWorkflow
from closeloop.workflows.catch_up import CatchUpWorkflow
from closeloop.workflows.corpus import CorpusWorkflow
from closeloop.workflows.decision_outcomes import DecisionOutcomesWorkflow
from closeloop.workflows.due_work import DueWorkWorkflow
from closeloop.workflows.forecast_resolution import ForecastResolutionWorkflow, ForecastWorkflow, HeartbeatWorkflow
from closeloop.workflows.lesson_building import LessonBuildingWorkflow
from closeloop.workflows.llm_research import LlmResearchWorkflow
from closeloop.workflows.market import MarketWorkflow
from closeloop.workflows.market_backfill import MarketBackfillWorkflow
from closeloop.workflows.messages import ArgumentCount
from closeloop.workflows.meta import MetaForecastWorkflow
from closeloop.workflows.override_materialization import OverrideMaterializationWorkflow
from closeloop.workflows.position_close import ConvictionWorkflow, PositionCloseWorkflow
from closeloop.workflows.received_closes import ReceivedClosesWorkflow
from closeloop.workflows.results import AnswerSize
from closeloop.workflows.retention import RetentionWorkflow
from closeloop.workflows.weight_adjustment import OverlayWatchWorkflow, WeightAdjustmentWorkflow, WeightDispatchWorkflow

WORKFLOWS = [
    PositionCloseWorkflow,
    ConvictionWorkflow,
    BackfillWorkflow,
    KarmaRebuildWorkflow,
    CatchUpWorkflow,
    ReceivedClosesWorkflow,
    WeightAdjustmentWorkflow,
    WeightDispatchWorkflow,
    OverlayWatchWorkflow,
    DueWorkWorkflow,
    CorpusWorkflow,
    RetentionWorkflow,
    LlmResearchWorkflow,
    ApprovalWorkflow,
    LessonBuildingWorkflow,
    OverrideMaterializationWorkflow,
    ForecastWorkflow,
    HeartbeatWorkflow,
    ForecastResolutionWorkflow,
    DecisionOutcomesWorkflow,
    MetaForecastWorkflow,
    MarketBackfillWorkflow,
    MarketWorkflow,
]

# What waits for an operator (services/approvals.py).
SUBJECTS: Subjects = (WeightsProposal(), OverrideProposal(), LeavingShadow(), DriversProposal())

LLM_CONCURRENCY = 4  # research activities at once in a worker

# The sandbox imports a workflow's modules again for each run. Of ours only workflows/ must be: a C extension that is
# imported twice crashes the process.
PASSED_THROUGH = (
    "closeloop.activities",
    "closeloop.gateways",
    "closeloop.learning",
    "closeloop.models",
    "closeloop.services",
    "closeloop.store",
    "asyncpg",
    "numpy",
    "opentelemetry",
    "pydantic",
    "pydantic_core",
    "scipy",
    "sqlalchemy",
    "sqlmodel",
)


async def connect_temporal(settings: Settings, telemetry: Telemetry) -> Client:
    """A client that speaks pydantic. Raises StackError without an address, RuntimeError if nothing answers there."""
    return await Client.connect(
        **temporal_config(settings),
        data_converter=pydantic_data_converter,
        interceptors=telemetry.interceptors,
        runtime=telemetry.runtime,
    )


async def connect_temporal_lazily(settings: Settings, telemetry: Telemetry) -> Client:
    """A client that connects when it is first used, so that a process can begin without Temporal. Raises StackError."""
    return await Client.connect(
        **temporal_config(settings),
        data_converter=pydantic_data_converter,
        interceptors=telemetry.interceptors,
        runtime=telemetry.runtime,
        lazy=True,
    )


def open_database(settings: Settings) -> AsyncEngine:
    """The engine of a worker: a connection for each activity that may run at once."""
    return open_engine(
        database_url(settings), pool_size=settings.worker_concurrency, through_pooler=settings.database_pooler
    )


def open_api_database(settings: Settings) -> AsyncEngine:
    """The engine of an API process: a request that is answered within seconds, or not at all."""
    return open_engine(
        database_url(settings),
        pool_size=settings.api_connections,
        ask_first=True,
        through_pooler=settings.database_pooler,
        statement_seconds=30,
        pool_seconds=5,
    )


def open_postgres_tools(settings: Settings) -> PostgresTools:
    """PostgreSQL's own programs on the stack's database. Raises StackError, Unavailable."""
    return PostgresTools(database_url(settings))


def open_language_model(settings: Settings) -> LanguageModel | None:
    """The language model of the settings; None without a key. Raises SettingsError."""
    key = settings.api_key()
    if key is None:
        return None
    return AnthropicModel(
        name=settings.llm_model,
        key=key.get_secret_value(),
        base_url=settings.llm_base_url,
        timeout=settings.llm_timeout_seconds,
        prices=TokenPrices(*settings.llm_prices()),
    )


def workflow_runner() -> SandboxedWorkflowRunner:
    """The sandbox with our passthrough list."""
    return SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*PASSED_THROUGH))


def learners_of(policy: LearningPolicy) -> list[Learner]:
    """Learners of a closed position (activities/learners.py says what one is). Karma is part of the attribution."""
    return [PatternEvents(policy), TimeframeCoefficients(policy)]


def build_workers(client: Client, engine: AsyncEngine, policy: LearningPolicy, settings: Settings) -> list[Worker]:
    """The workers of a process that serves every queue. Raises SettingsError."""
    return [
        build_worker(
            client,
            engine,
            policy,
            concurrency=settings.worker_concurrency,
            overlay_folder=settings.overlay_folder(),
            overlay_mode=settings.overlay_file_mode(),
            corpus_folder=settings.corpus_folder(),
            archive_folder=settings.archive_folder(),
        ),
        build_market_worker(
            client,
            engine,
            policy,
            binance_url=settings.binance_url,
            coingecko_url=settings.coingecko_url,
            coingecko_key=settings.coingecko_api_key,
            market=settings.market,
            history=timedelta(days=settings.market_history_days),
        ),
        build_llm_worker(
            client, engine, policy, model=open_language_model(settings), budget=settings.llm_budget_usd_per_day
        ),
    ]


def build_worker(
    client: Client,
    engine: AsyncEngine,
    policy: LearningPolicy,
    *,
    concurrency: int,
    overlay_folder: Path,
    corpus_folder: Path,
    archive_folder: Path,
    overlay_mode: int | None = None,
    learners: Sequence[Learner] | None = None,
    task_queue: str = TASK_QUEUE,
) -> Worker:
    """A worker for the queue of the activities that need only the database and the disk."""
    sessions = sessions_of(engine)
    learners = learners_of(policy) if learners is None else learners
    approvals = ApprovalActivities(sessions, SUBJECTS, client, policy.approvals)
    decisions = WeightDecisionActivities(sessions, client, policy.approvals)
    groups = (
        PositionActivities(sessions, policy, client, learners),
        LearnerActivities(sessions, learners),
        MissedActivities(sessions, learners),
        ImportActivities(sessions, policy, learners),
        KarmaActivities(sessions, policy),
        CorpusActivities(sessions, policy, SkillFolder(corpus_folder)),
        PeriodicActivities(sessions),
        RetentionActivities(sessions, policy, ArchiveFolder(archive_folder)),
        WeightCycleActivities(sessions, policy, load_preset(policy.weights.default_preset)),
        OverlayActivities(sessions, OverlayFolder(overlay_folder, overlay_mode), client),
        approvals,
        decisions,
        WeightsOf01(approvals, decisions),
        LessonActivities(sessions, policy),
        OverrideActivities(sessions, policy, client),
        ForecastActivities(sessions, policy),
        DecisionActivities(sessions, policy),
        ProducerActivities(sessions, policy),
        MetaActivities(sessions, policy),
        MarketContextActivities(sessions, policy),
        MarketSeriesActivities(sessions, policy),
    )
    activities = [activity for group in groups for activity in group.activities()]
    return _worker(client, task_queue, activities, concurrency)


def build_market_worker(
    client: Client,
    engine: AsyncEngine,
    policy: LearningPolicy,
    *,
    binance_url: str,
    coingecko_url: str,
    coingecko_key: SecretStr | None = None,
    market: MarketMode = "off",
    history: timedelta = timedelta(days=1),
    task_queue: str = MARKET_TASK_QUEUE,
) -> Worker:
    """A worker that asks for prices: one request at a time, so that the source's limit is kept.

    ``market`` and ``history``: whether the market's sources are asked, too, and how far back at first.
    """
    sessions, binance = sessions_of(engine), Binance(binance_url)
    coingecko = CoinGecko(coingecko_url, coingecko_key.get_secret_value() if coingecko_key else None)
    groups = (
        PriceActivities(sessions, policy, binance),
        MarketSourceActivities(sessions, policy.market, market, binance, coingecko, history),
    )
    return Worker(
        client,
        task_queue=task_queue,
        activities=[activity for group in groups for activity in group.activities()],
        interceptors=[AnswerSize()],
        max_concurrent_activities=1,
    )


def build_llm_worker(
    client: Client,
    engine: AsyncEngine,
    policy: LearningPolicy,
    *,
    model: LanguageModel | None,
    budget: Decimal,
    task_queue: str = LLM_TASK_QUEUE,
) -> Worker:
    """A worker for the queue of what a language model is asked for; without a model, statistics write."""
    research = ResearchActivities(sessions_of(engine), policy, model, budget)
    return _worker(client, task_queue, research.activities(), LLM_CONCURRENCY)


def _worker(client: Client, task_queue: str, activities: Sequence[Activity], concurrency: int) -> Worker:
    """Every workflow may run on every queue: its activities run where it runs."""
    return Worker(
        client,
        task_queue=task_queue,
        workflows=WORKFLOWS,
        activities=activities,
        workflow_runner=workflow_runner(),
        interceptors=[ArgumentCount(), AnswerSize()],
        # A workflow that was started with a message of the wrong shape fails at once instead of being retried for ever.
        workflow_failure_exception_types=[ValidationError],
        max_concurrent_activities=concurrency,
        max_concurrent_local_activities=concurrency,
    )
