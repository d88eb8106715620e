"""From a close that acted on a pattern to a skill that moves, through the worker and the schedule."""

import asyncio
from pathlib import Path

import pytest
from temporalio.client import Client, ScheduleActionExecutionStartWorkflow, ScheduleActionStartWorkflow

from closeloop.models.corpus import CorpusReport, CorpusRequest
from closeloop.models.periods import DueWorkReport
from closeloop.models.positions import CloseReport
from closeloop.models.search_attributes import LIFECYCLE
from closeloop.store.database import open_engine
from closeloop.workers.registration import register_search_attributes
from closeloop.workers.schedules import apply_schedules
from tests.closes import message
from tests.store.databases import scratch_database
from tests.waiting import PATIENCE, eventually
from tests.workers.namespaces import own_namespace
from tests.workers.own_worker import own_worker


def skill(corpus: Path, place: str, score: int) -> Path:
    path = corpus / "skills" / f"{place}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# A skill\nscore: {score}\n")
    return path


async def test_a_close_scores_its_pattern_and_the_daily_run_promotes_it(
    dsn: str, client: Client, tmp_path: Path
) -> None:
    own = await own_namespace(client)
    await register_search_attributes(own)
    await apply_schedules(own)
    pending = skill(tmp_path / "corpus", "pending/pm.uptrend.S1.buy_flag", 2)
    clash = skill(tmp_path / "corpus", "pending/clash", 3)
    skill(tmp_path / "corpus", "active/clash", 0)
    async with scratch_database(dsn) as scratch:
        engine = open_engine(scratch, pool_size=4)
        async with own_worker(own, engine, tmp_path):
            context = {"actions": [{"pattern_key": "pm.uptrend.S1.buy_flag", "action_category": "entry"}]}
            await own.execute_workflow(
                "PositionCloseWorkflow",
                message("b", entry_context=context),
                id="position-close/b/p-1",
                task_queue="closeloop",
                result_type=CloseReport,
            )

            schedule = own.get_schedule_handle("closeloop/corpus")
            action = (await schedule.describe()).schedule.action
            assert isinstance(action, ScheduleActionStartWorkflow)
            await schedule.trigger()

            async def runs() -> list[str]:
                actions = [recent.action for recent in (await schedule.describe()).info.recent_actions]
                return [a.workflow_id for a in actions if isinstance(a, ScheduleActionExecutionStartWorkflow)]

            [run] = await eventually(runs, bool)
            asked = own.get_workflow_handle(run, result_type=DueWorkReport)
            started = (await asyncio.wait_for(asked.result(), PATIENCE)).workflow_id
            assert started is not None
            handle = own.get_workflow_handle(started, result_type=CorpusReport)
            report = await asyncio.wait_for(handle.result(), PATIENCE)
            assert [(s.name, s.before, s.after, s.matches) for s in report.scored] == [
                ("pm.uptrend.S1.buy_flag", 2, 3, 1)
            ]
            assert (report.promoted, report.archived) == (["pm.uptrend.S1.buy_flag"], [])
            assert [s.skill for s in report.skipped] == ["pending/clash.md"]
            described = await handle.describe()
            assert await described.memo_value("outcome") == "skills: 1 scored, 1 promoted, 0 archived, 1 left alone"
            assert described.typed_search_attributes.get(LIFECYCLE) == "corpus"
        await engine.dispose()
    assert not pending.exists()
    assert clash.exists()
    assert (tmp_path / "corpus/skills/active/pm.uptrend.S1.buy_flag.md").read_text() == "# A skill\nscore: 3\n"


@pytest.mark.parametrize("argument", [{}, CorpusRequest()])
async def test_it_runs_by_name(argument: object, dsn: str, client: Client, tmp_path: Path) -> None:
    own = await own_namespace(client)
    await register_search_attributes(own)
    async with scratch_database(dsn) as scratch:
        engine = open_engine(scratch, pool_size=4)
        async with own_worker(own, engine, tmp_path):
            report = await asyncio.wait_for(
                own.execute_workflow(
                    "CorpusWorkflow", argument, id="by-name", task_queue="closeloop", result_type=CorpusReport
                ),
                PATIENCE,
            )
        await engine.dispose()
    assert report == CorpusReport()
