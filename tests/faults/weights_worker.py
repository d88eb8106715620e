"""A worker process for test_weights_killed.py, which kills it, or which kills itself at a given place."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

from closeloop.activities.approvals import ApprovalActivities
from closeloop.activities.overlays import OverlayActivities
from closeloop.activities.weight_cycles import WeightCycleActivities
from closeloop.activities.weight_decisions import WeightDecisionActivities
from closeloop.gateways.overlay import OverlayFolder
from closeloop.gateways.presets import load_preset
from closeloop.models.policy import ApprovalsPolicy, LearningPolicy
from closeloop.models.weights import ActiveWeights
from closeloop.store.database import open_engine, sessions_of
from closeloop.workers.wiring import SUBJECTS, WORKFLOWS, workflow_runner

READY = "ready"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DiesBeforeWriting(OverlayFolder):
    """The weights are in force, the file is as it was."""

    def write(self, active: ActiveWeights) -> None:
        die()


class DiesAfterWriting(OverlayFolder):
    """The file is written, and that it was is not on record."""

    def write(self, active: ActiveWeights) -> None:
        super().write(active)
        die()


FOLDERS = {"lives": OverlayFolder, "before": DiesBeforeWriting, "after": DiesAfterWriting}


async def main(address: str, dsn: str, queue: str, folder: str, mode: str) -> None:
    client = await Client.connect(address, data_converter=pydantic_data_converter)
    overlays = FOLDERS[mode](Path(folder))
    sessions, policy = sessions_of(open_engine(dsn, pool_size=5)), LearningPolicy()
    cycles = WeightCycleActivities(sessions, policy, load_preset("balanced"))
    files = OverlayActivities(sessions, overlays, client)
    approvals = ApprovalActivities(sessions, SUBJECTS, client, ApprovalsPolicy())
    worker = Worker(
        client,
        task_queue=queue,
        workflows=WORKFLOWS,
        activities=[
            cycles.open_cycle,
            cycles.standing,
            cycles.books_due,
            *approvals.activities(),
            WeightDecisionActivities(sessions, client, ApprovalsPolicy()).revert,
            files.write_overlay,
            files.check_overlays,
            files.revert_deleted_overlay,
        ],
        workflow_runner=workflow_runner(),
        max_cached_workflows=0,  # a killed worker's sticky queue would be waited for
    )
    async with worker:
        print(READY, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
