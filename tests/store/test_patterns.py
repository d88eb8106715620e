"""What learners have still to learn after an upgrade, and how a match is found."""

from alembic import command
from sqlalchemy import Connection, text
from temporalio.client import Client

from closeloop import store
from closeloop.models.overrides import ProposedOverride
from closeloop.store.database import Sessions, open_engine, sessions_of
from closeloop.store.schema import _config, upgrade
from tests.activities.overriding import mined
from tests.activities.patterning import AS_OF, NAMES, PATTERN, config, facts, learn_missed, owed, trades
from tests.store.databases import query, scratch_database

BEFORE = "0003"


async def test_closes_attributed_before_the_upgrade_are_learned_by_the_catch_up(dsn: str) -> None:
    positions = trades("old", 5)

    def to(connection: Connection) -> None:
        settings = _config()
        settings.attributes["connection"] = connection
        command.upgrade(settings, BEFORE)

    async with scratch_database(dsn, migrated=False) as scratch:
        engine = open_engine(scratch, pool_size=4)
        async with engine.begin() as connection:
            await connection.run_sync(to)
        sessions = sessions_of(engine)
        for position in positions:
            values = {"id": position.position_id, "context": position.model_dump_json(include={"entry_context"})}
            await query(
                sessions,
                "INSERT INTO books (book_id) VALUES ('old') ON CONFLICT DO NOTHING",
            )
            await query(
                sessions,
                "INSERT INTO positions (book_id, position_id, symbol, direction, opened_at, closed_at, entry_context, "
                "attributed) VALUES ('old', :id, 'X', 'long', '2026-01-01', '2026-01-02', "
                "CAST(:context AS jsonb) -> 'entry_context', true)",
                **values,
            )
            await query(
                sessions,
                "INSERT INTO attributions (book_id, position_id, symbol, direction, opened_at, closed_at, "
                "realized_pnl, rr, time_held_hours, direction_correct, conviction_status, producers, policy_hash, "
                "attributed_at, attributed_by) VALUES ('old', :id, 'X', 'long', '2026-01-01', '2026-01-02', 1, 1, 24, "
                "true, 'none', '{}', 'x', '2026-01-02', 'x')",
                id=position.position_id,
            )
        await upgrade(scratch)
        assert len(await owed(sessions, "old")) == len(positions) * len(NAMES)
        await learn_missed(sessions, None)
        assert len(await facts(sessions, "old")) == (await config(sessions, "old"))["global_rr"]["n"] == 5
        await engine.dispose()


async def test_a_match_reads_only_what_its_index_finds(book: str, sessions: Sessions, client: Client) -> None:
    """Of many overrides, those of the pattern whose anchor is among the current conditions."""
    scopes = [{f"d{i:02}": f"v{j}", "z": "x"} for i in range(20) for j in range(20)]
    ids = await mined(sessions, book, *({"scope": scope} for scope in scopes))
    rows = [
        ProposedOverride(
            override_id=lesson,
            book_id=book,
            pattern_key=PATTERN,
            action_category="entry",
            scope=scope,
            anchor=store.overrides.conditions(scope)[0],
            size_multiplier=1.1,
            threshold_adjustments={},
            confidence=0.5,
            expires_at=AS_OF.replace(year=2027),
            lesson_id=lesson,
            lesson_version=1,
            run="a test",
            as_of=AS_OF,
            policy_hash="x",
        )
        for lesson, scope in zip(ids, scopes, strict=True)
    ]
    async with sessions.begin() as session:
        await store.overrides.add(session, rows)
    await query(sessions, "ANALYZE pm_overrides")
    current = {f"d{i:02}": "v3" for i in range(5)} | {"z": "x"}
    values = store.overrides.matching_values(book, PATTERN, "entry", current, AS_OF)
    async with sessions() as session:
        found = await store.overrides.matching(session, book, PATTERN, "entry", current, AS_OF)
        plan = (await session.execute(text(f"EXPLAIN {store.overrides.MATCHING}"), values)).scalars().all()
    assert len(found) == 5
    assert any("pm_overrides_match" in line for line in plan), plan
    assert any("anchor" in line for line in plan if "Index Cond" in line), plan
