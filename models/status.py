"""Whether each part of the service is up, and why not."""

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, Field

from closeloop.models.failures import FailingView
from closeloop.models.market_sources import MarketMode, MarketStatus
from closeloop.models.periods import PeriodicStatus
from closeloop.models.workers import PoliciesInUse, WorkerView


class WorkerEnds(BaseModel):
    """A worker of the local stack that ended: how often in a row, how and why last, and when it is tried next.

    ``how`` is an exit status or a signal, ``last_line`` the last line of its log. ``next_at`` is None where it was
    started again and has not run for long.
    """

    times: int
    how: str
    last_line: str
    log: Path
    ended_at: datetime
    wait_seconds: float
    next_at: datetime | None

    @property
    def sentence(self) -> str:
        """All of it, for a person."""
        often = "ended" if self.times == 1 else f"ended {self.times} times in a row"
        why = f"{self.how}; its last word: {self.last_line}" if self.last_line else f"{self.how}, without a word"
        after = "it was started again" if self.next_at is None else f"tried again at {self.next_at:%H:%M:%S} UTC"
        return f"{often}, last at {self.ended_at:%Y-%m-%d %H:%M:%S} UTC ({why}); {after}; log {self.log}"


class Addresses(BaseModel):
    """Where the parts are, as far as this process knows; what ``status`` is asked about."""

    home: Path
    stack_running: bool
    postgres_data: str | None
    temporal: str | None
    temporal_ui: str | None
    api: str | None = None
    worker_ends: WorkerEnds | None = None
    market: MarketMode = "off"


class PartStatus(BaseModel):
    """A part of the service. ``reason`` says why it is not up; None where it is, or where another part's says it."""

    up: bool = False
    reason: str | None = None


class PostgresStatus(PartStatus):
    """The database server; ``data`` is the folder of a local one."""

    version: str | None = None
    data: str | None


class SchemaStatus(PartStatus):
    """Up where the database's revision is the one that this closeloop needs."""

    needed: str
    revision: str | None = None
    newer: bool = Field(default=False, description="The database was upgraded by a newer closeloop than this one.")


class TemporalStatus(PartStatus):
    """The Temporal server, with the address of a local one's web UI."""

    address: str | None
    ui: str | None
    remedy: str | None = Field(default=None, description="What to do where the namespace is missing.")


class ApiStatus(PartStatus):
    """The HTTP door of the local stack."""

    url: str


class QueueStatus(BaseModel):
    """A task queue and the identities of the workers that poll it."""

    task_queue: str
    workers: list[str]


class WorkerStatus(PartStatus):
    """Up where every queue is polled. ``workers`` are those of ``task_queue``, the queue of most work."""

    task_queue: str
    workers: list[str] = []
    queues: list[QueueStatus] = []
    ends: WorkerEnds | None = Field(default=None, description="The local stack's worker ended, lately or again.")


class ScheduleStatus(BaseModel):
    """A schedule on the server. ``as_applied``: whether it runs what this version wants, when it wants it."""

    id: str
    there: bool
    as_applied: bool = True
    paused: bool = False
    note: str = Field(default="", description="Why it is paused, as the operator said.")
    last_at: datetime | None = None
    next_at: datetime | None = Field(default=None, description="Null where it is paused.")


class FailedWorkflow(BaseModel):
    """A workflow that failed or timed out."""

    workflow_id: str
    run_id: str
    workflow: str
    closed_at: datetime | None
    reason: str


class FailedWorkflows(BaseModel):
    """Workflows that failed since an instant, a day ago: how many, and the newest ten, the newest first."""

    since: datetime
    count: int
    newest: list[FailedWorkflow]


class Trouble(BaseModel):
    """Something to look after though all parts may be up: what is wrong, and what to do."""

    about: str
    sentence: str
    remedy: str


class TemporalLooks(BaseModel):
    """What was found on the Temporal server; null where that could not be told, and ``troubles`` says why."""

    missing_search_attributes: list[str] | None = None
    schedules: list[ScheduleStatus] | None = None
    failed_workflows: FailedWorkflows | None = None
    troubles: list[Trouble] = []


class Status(BaseModel):
    """The state of the service; ``up`` where every part is, and no search attribute is missing."""

    home: Path
    stack_running: bool
    up: bool
    postgres: PostgresStatus
    schema_: SchemaStatus = Field(serialization_alias="schema")
    temporal: TemporalStatus
    worker: WorkerStatus
    api: ApiStatus | None = Field(default=None, description="Of the local stack; null: none was started with it.")
    failing: list[FailingView] = Field(default=[], description="Work that fails for one book or proposal, and why.")
    unreadable_positions: int = Field(
        default=0, description="Rows that an engine wrote into positions and that cannot be read as closes."
    )
    running_workers: list[WorkerView] = Field(default=[], description="Workers that said lately that they live.")
    policies: PoliciesInUse = Field(default=PoliciesInUse(), description="Which of them computes with which policy.")

    missing_search_attributes: list[str] | None = Field(default=None, description="Null: cannot be told.")
    schedules: list[ScheduleStatus] | None = Field(default=None, description="Null: cannot be told.")
    failed_workflows: FailedWorkflows | None = Field(default=None, description="Null: cannot be told.")
    periodic: list[PeriodicStatus] = Field(default=[], description="Weekly, daily and six-hourly work.")
    market: MarketStatus | None = Field(default=None, description="Null: it is off, and nothing of it is on record.")
    troubles: list[Trouble] = Field(default=[], description="What is wrong though the parts are up, with a remedy.")

    def parts(self) -> dict[str, PartStatus]:
        """The parts by name."""
        found: dict[str, PartStatus] = {
            "postgres": self.postgres,
            "schema": self.schema_,
            "temporal": self.temporal,
            "worker": self.worker,
        }
        return found if self.api is None else found | {"api": self.api}
