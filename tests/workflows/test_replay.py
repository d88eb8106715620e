"""Recorded histories replay against today's code: a change that would break a running workflow fails here.

If one does: keep the old order of commands for workflows under way with ``workflow.patched``. New histories are
recorded by ``python -m tests.record_histories``, which adds files and never replaces one.
"""

import json
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from closeloop.workers.wiring import WORKFLOWS, workflow_runner

HISTORIES = sorted((Path(__file__).parents[1] / "histories").glob("*.json"))


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_a_recorded_history_replays(path: Path) -> None:
    replayer = Replayer(workflows=WORKFLOWS, data_converter=pydantic_data_converter, workflow_runner=workflow_runner())
    started = json.loads(path.read_text())["events"][0]["workflowExecutionStartedEventAttributes"]
    await replayer.replay_workflow(WorkflowHistory.from_json(started["workflowId"], path.read_text()))


def test_every_workflow_has_a_history() -> None:
    recorded = {path.stem.split(".")[0] for path in HISTORIES}
    assert recorded >= {workflow.__name__ for workflow in WORKFLOWS}


async def test_a_changed_order_of_commands_is_noticed() -> None:
    """The replay can fail: a history with another activity in the place of ours is refused."""
    path = next(p for p in HISTORIES if p.stem == "KarmaRebuildWorkflow.all-books")
    changed = path.read_text().replace('"rebuild_karma"', '"another_activity"')
    replayer = Replayer(workflows=WORKFLOWS, data_converter=pydantic_data_converter, workflow_runner=workflow_runner())
    with pytest.raises(Exception, match=r"[Nn]ondeterminism"):
        await replayer.replay_workflow(WorkflowHistory.from_json("changed", changed))
