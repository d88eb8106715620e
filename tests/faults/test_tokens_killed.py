"""A door is killed, with SIGKILL, after it recorded a decision and before any workflow was told: the record decides."""

from pathlib import Path

from temporalio.client import Client

from closeloop.models.policy import ApprovalsPolicy, LearningPolicy
from closeloop.workers.registration import register_search_attributes
from tests.activities.weighing import desk_on
from tests.store.databases import query
from tests.waiting import until
from tests.workers.namespaces import own_namespace
from tests.workers.processes import script
from tests.workflows.test_tokens import age, look, proposed, token

STRICT = LearningPolicy(approvals=ApprovalsPolicy(require_token=True))


async def test_a_door_killed_after_the_record(dsn: str, client: Client, tmp_path: Path, book: str) -> None:
    own = await own_namespace(client)
    await register_search_attributes(own)
    async with desk_on(dsn, own, tmp_path) as desk:
        async with desk.worker("closeloop", STRICT):
            cycle_id = await proposed(desk, book)
        secret = await token(desk, "ann")
        arguments = (own.service_client.config.target_host, own.namespace, desk.dsn, cycle_id)

        async def on_record() -> bool:
            return len(await query(desk.sessions, "SELECT 1 FROM operator_decisions")) == 1

        # No worker runs: Temporal keeps no update that no worker has taken, so nothing but the record is left of it.
        async with script("tests.faults.deciding_door", *arguments, home=tmp_path) as door:
            assert door.stdin is not None
            door.stdin.write(f"{secret}\n".encode())
            await door.stdin.drain()
            await until("the decision is on record", on_record)
            door.kill()
            await door.wait()
        [row] = await query(desk.sessions, "SELECT decision_id, spent_at FROM operator_decisions")
        assert row["spent_at"] is None
        await age(desk, row["decision_id"])
        async with desk.worker("closeloop", STRICT):
            await look(desk)
            await look(desk)  # told twice at most, carried out once
            view = await desk.until(cycle_id, "applied")

            async def spent() -> bool:
                rows = await query(desk.sessions, "SELECT accepted FROM operator_decisions")
                return [found["accepted"] for found in rows] == [True]

            await until("the record is spent", spent)
        assert view.decided_by == "ann"
        active = await desk.active(book)
        assert active is not None
        assert active.version == 1
