"""A worker process for test_approvals_killed.py, which kills it, or which kills itself around a decision's commit."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

from closeloop.activities.approvals import ApprovalActivities
from closeloop.models.approvals import ApprovalView, Decision
from closeloop.models.launches import TASK_QUEUE
from closeloop.models.policy import LearningPolicy
from closeloop.services.approvals import DecisionEffect
from closeloop.services.override_decisions import OverrideProposal
from closeloop.store.database import open_engine, sessions_of
from closeloop.workers.wiring import WORKFLOWS, build_worker, workflow_runner

READY = "ready"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DecisionDiesBeforeCommit(OverrideProposal):
    """The process dies after a decision was written, before its commit."""

    async def settle(self, session: AsyncSession, found: ApprovalView, decision: Decision | None) -> DecisionEffect:
        done = await super().settle(session, found, decision)
        die()
        return done


class DecisionDiesAfterCommit(OverrideProposal):
    """The process dies after the commit of a decision, before the workflow has the answer."""

    async def settle(self, session: AsyncSession, found: ApprovalView, decision: Decision | None) -> DecisionEffect:
        event.listen(session.sync_session, "after_transaction_end", lambda _, ended: ended.parent is None and die())
        return await super().settle(session, found, decision)


SUBJECTS = {"before": DecisionDiesBeforeCommit, "after": DecisionDiesAfterCommit}


async def main(address: str, namespace: str, dsn: str, folder: str, hours: str, mode: str) -> None:
    client = await Client.connect(address, namespace=namespace, data_converter=pydantic_data_converter)
    engine = open_engine(dsn, pool_size=8)
    policy = LearningPolicy(approval_hours=float(hours), meta_approval_hours=float(hours))
    if mode == "lives":
        home = Path(folder)
        worker = build_worker(
            client,
            engine,
            policy,
            concurrency=8,
            overlay_folder=home,
            corpus_folder=home / "corpus",
            archive_folder=home / "archive",
        )
    else:
        approvals = ApprovalActivities(sessions_of(engine), [SUBJECTS[mode]()], client, policy.approvals)
        worker = Worker(
            client,
            task_queue=TASK_QUEUE,
            workflows=WORKFLOWS,
            activities=[approvals.decide, approvals.when_signalled],
            workflow_runner=workflow_runner(),
        )
    async with worker:
        print(READY, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
