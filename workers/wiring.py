"""The one place where objects are constructed."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.approvals import ApprovalActivities, Subject
from activities.corpus import CorpusActivities
from activities.imports import ImportActivities
from activities.karma import KarmaActivities
from activities.learners import Learner, LearnerActivities
from activities.positions import PositionActivities
from activities.starting import TASK_QUEUE
from activities.weights import WeightActivities
from gateways.overlay import OverlayFolder
from gateways.presets import load_preset
from gateways.skills import SkillFolder
from models.policy import LearningPolicy
from store.database import open_engine, sessions_of
from workers.addresses import database_url, temporal_config
from workers.settings import Settings
from workers.telemetry import Telemetry
from workflows.approval import ApprovalWorkflow
from workflows.backfill import BackfillWorkflow, KarmaRebuildWorkflow
from workflows.catch_up import CatchUpWorkflow
from workflows.corpus import CorpusWorkflow
from workflows.messages import ArgumentCount
from workflows.position_close import ConvictionWorkflow, PositionCloseWorkflow
from workflows.weight_adjustment import OverlayWatchWorkflow, WeightAdjustmentWorkflow, WeightDispatchWorkflow

WORKFLOWS = [
    PositionCloseWorkflow,
    ConvictionWorkflow,
    BackfillWorkflow,
    KarmaRebuildWorkflow,
    CatchUpWorkflow,
    WeightAdjustmentWorkflow,
    WeightDispatchWorkflow,
    OverlayWatchWorkflow,
    CorpusWorkflow,
    ApprovalWorkflow,
]

# Learners of a closed position (activities/learners.py says what one is). Karma is part of the attribution itself.
LEARNERS: Sequence[Learner] = ()

# What an operator decides on through the ApprovalWorkflow (activities/approvals.py).
SUBJECTS: Sequence[Subject] = ()

# The sandbox imports a workflow's modules again for each run. Of ours only workflows/ must be: a C extension that is
# imported twice crashes the process.
PASSED_THROUGH = (
    "activities",
    "gateways",
    "learning",
    "models",
    "store",
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


def open_database(settings: Settings) -> AsyncEngine:
    """The engine of a worker: a connection for each activity that may run at once."""
    return open_engine(database_url(settings), pool_size=settings.worker_concurrency)


def workflow_runner() -> SandboxedWorkflowRunner:
    """The sandbox with our passthrough list."""
    return SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*PASSED_THROUGH))


def build_worker(
    client: Client,
    engine: AsyncEngine,
    policy: LearningPolicy,
    *,
    concurrency: int,
    overlay_folder: Path,
    corpus_folder: Path,
    learners: Sequence[Learner] = LEARNERS,
    task_queue: str = TASK_QUEUE,
) -> Worker:
    """A worker with every workflow and activity."""
    sessions = sessions_of(engine)
    positions = PositionActivities(sessions, policy, client, [learner.name for learner in learners])
    imports = ImportActivities(sessions, policy)
    karma = KarmaActivities(sessions, policy)
    approvals = ApprovalActivities(sessions, SUBJECTS)
    weights = WeightActivities(
        sessions, policy, load_preset(policy.default_preset), OverlayFolder(overlay_folder), client
    )
    return Worker(
        client,
        task_queue=task_queue,
        workflows=WORKFLOWS,
        activities=[
            positions.attribute_close,
            positions.record_conviction,
            positions.start_unattributed,
            LearnerActivities(sessions, learners).learn,
            imports.attribute_import,
            imports.report_import,
            karma.rebuild_karma,
            CorpusActivities(sessions, SkillFolder(corpus_folder)).tend_corpus,
            weights.open_cycle,
            weights.decide,
            weights.expire,
            weights.remind,
            weights.refuse_word,
            weights.when_signalled,
            weights.standing,
            weights.write_overlay,
            weights.check_overlays,
            weights.revert_deleted_overlay,
            weights.books_due,
            approvals.decide,
            approvals.standing,
            approvals.refuse_word,
        ],
        workflow_runner=workflow_runner(),
        interceptors=[ArgumentCount()],
        # A workflow that was started with a message of the wrong shape fails at once instead of being retried for ever.
        workflow_failure_exception_types=[ValidationError],
        max_concurrent_activities=concurrency,
        max_concurrent_local_activities=concurrency,
    )
