"""Which workers run, and what each is set up with: what it publishes while it lives."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Column, DateTime, Integer, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.values import Plain

NAMED = 5  # workers at most, or values, in a sentence


class ResearchSetup(BaseModel):
    """What a worker would ask of research. ``key_present`` says whether it has a key; the key is stored nowhere."""

    model_config = ConfigDict(frozen=True)

    model: str
    key_present: bool
    budget_usd_per_day: Plain


class WorkerBeat(BaseModel):
    """What a worker says of itself while it runs. ``worker_id`` is of its process, ``policy`` the whole policy."""

    model_config = ConfigDict(frozen=True)

    worker_id: str
    host: str
    pid: int
    started_at: datetime
    version: str
    policy_hash: str
    policy: dict[str, Any]
    queues: list[str]
    research: ResearchSetup


class WorkerView(BaseModel):
    """A worker that lives; ``last_seen`` by the database's clock."""

    host: str
    pid: int
    started_at: datetime
    last_seen: datetime
    version: str
    policy_hash: str
    queues: list[str]
    research: ResearchSetup

    @property
    def name(self) -> str:
        """``pid@host``, as Temporal names it."""
        return f"{self.pid}@{self.host}"


class PolicyUse(BaseModel):
    """A policy, and the workers that compute with it."""

    policy_hash: str
    workers: list[str]


class PoliciesInUse(BaseModel):
    """The policies of the workers that live: one, unless somebody forgot a worker.

    ``differ`` holds what is not the same in all: ``section.field``, with the value in each of ``policies``.
    """

    policies: list[PolicyUse] = []
    differ: dict[str, list[Any]] = Field(default={}, description="Null where a policy does not have the field.")

    @property
    def warning(self) -> str | None:
        """What is wrong and what to do; None where all workers have the same policy."""
        if len(self.policies) < 2:
            return None
        used = "; ".join(f"{use.policy_hash} by {_some(use.workers)}" for use in self.policies)
        differ = _some([f"{field} ({', '.join(map(str, values))})" for field, values in self.differ.items()])
        return (
            f"{len(self.policies)} different policies are in use, so what is learned depends on which worker takes the "
            f"work: {used}. They differ in {differ}. Give every worker the same CLOSELOOP_POLICY and version, restart "
            "those that have another, then run 'closeloop karma rebuild'."
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


class RunningWorker(SQLModel, table=True):
    """A worker process, kept fresh while it runs; one that was killed is ignored soon, and removed after a day."""

    __tablename__ = "running_workers"

    worker_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    host: str = Col(sa_column=Column(Text, nullable=False))
    pid: int = Col(sa_column=Column(Integer, nullable=False))
    started_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    last_seen: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
    version: str = Col(sa_column=Column(Text, nullable=False))
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))
    policy: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
    queues: list[str] = Col(sa_column=Column(ARRAY(Text), nullable=False))
    research: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
