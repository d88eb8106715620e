"""Other weights of drivers: proposed once from the same trades, in force from the approval to the revert, in the book's
levers alone."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from temporalio.client import Client

from closeloop.models.approvals import ApprovalAnswer, ApprovalKey, ApprovalState, ApprovalVerdict, RecordApproval
from closeloop.models.errors import BookArchived, NotOnRecord
from closeloop.models.given_levers import LeversGiven
from closeloop.models.market import Driver, Timeframe
from closeloop.models.market_drivers import DriversAnswer, DriversView
from closeloop.models.market_levers import LeversRequest
from closeloop.services import approvals, book_archive, given_levers, market_drivers
from closeloop.services.market_drivers import DriversProposal
from closeloop.store.database import Sessions
from closeloop.workers.registration import register_search_attributes
from closeloop.workers.wiring import SUBJECTS
from tests.activities.patterning import POLICY, attribute_all
from tests.services.markets import market, put_state
from tests.services.test_market_evidence import LATER, switching
from tests.store.databases import query
from tests.workers.namespaces import own_namespace

REQUEST = LeversRequest(bucket="nano", timeframe="1h")


@pytest.fixture
async def own(dsn: str) -> AsyncIterator[Sessions]:
    """The market is shared by everything in the database."""
    async with market(dsn) as own:
        yield own


@pytest.fixture
async def client(client: Client) -> Client:
    """Of a namespace of its own, which no worker serves: tests decide on the record."""
    own = await own_namespace(client)
    await register_search_attributes(own)
    return own


async def propose(client: Client, sessions: Sessions, book: str) -> DriversAnswer:
    return await market_drivers.propose(client, sessions, POLICY, book, LATER)


async def decide(sessions: Sessions, name: str, verdict: str | None, operator: str = "ann") -> ApprovalAnswer:
    key = ApprovalKey.named(name)
    word = RecordApproval(
        **key.model_dump(),
        verdict=None if verdict is None else ApprovalVerdict(verdict),
        operator=operator if verdict else "",
        note="because" if verdict else "",
        at=datetime.now(UTC),
    )
    async with sessions.begin() as session:
        return await approvals.decide(session, approvals.subject_of([DriversProposal()], key), word)


async def status(sessions: Sessions, book: str, at: datetime | None = None) -> DriversView:
    async with sessions() as session:
        return await market_drivers.status(session, POLICY.levers, book, at or datetime.now(UTC))


async def state_of(sessions: Sessions, name: str) -> str:
    key = ApprovalKey.named(name)
    async with sessions() as session:
        return (await approvals.find(session, DriversProposal(), key)).state


async def given(sessions: Sessions, book: str, at: datetime) -> LeversGiven:
    async with sessions.begin() as session:
        return await given_levers.give(session, book, REQUEST, at, POLICY.levers)


async def test_from_the_evidence_to_the_levers_and_back(client: Client, own: Sessions, book: str) -> None:
    await attribute_all(own, switching(book))
    answer = await propose(client, own, book)
    assert answer.proposal == f"drivers/{book}/1"
    assert "BTC x 1 -> x 1.25 (trades went 1d with A)" in answer.sentence
    assert (await client.get_workflow_handle(answer.proposal).describe()).workflow_type == "ApprovalWorkflow"
    again = await propose(client, own, book)
    assert (again.proposal, again.sentence) == (answer.proposal, answer.sentence.replace("Proposed", "Waits already"))
    assert (await status(own, book)).waiting == answer.proposal

    now = datetime.now(UTC)
    for hours in (0, 2):
        await put_state(own, Driver.btc, Timeframe.h1, now - timedelta(hours=hours), "S3")
    before = datetime.now(UTC)
    plain = await given(own, book, before)
    assert (await decide(own, answer.proposal, "approve")).accepted
    assert (await decide(own, answer.proposal, "approve", "bob")).accepted is False
    found = await status(own, book)
    assert (found.version, found.operator, found.proposal, found.waiting) == (1, "ann", answer.proposal, None)
    assert (found.factors["BTC"], found.weights["BTC"], found.weights["ALT"]) == (1.25, 1.25, 1.5)
    assert (await status(own, book, before)).version == 0

    later = await given(own, book, datetime.now(UTC))
    [one], [other] = plain.contributions, later.contributions
    assert (other.weight, other.da) == (pytest.approx(1.25 * one.weight), pytest.approx(1.25 * one.da))
    assert plain.policy_hash != later.policy_hash
    # As of a time before, the weights of that time hold, asked for again or for the first time.
    assert await given(own, book, before) == plain
    earlier = await given(own, book, before - timedelta(milliseconds=1))
    assert earlier.policy_hash == plain.policy_hash == POLICY.levers.hash
    other_book = await given(own, f"{book}-2", datetime.now(UTC))
    assert other_book.policy_hash == POLICY.levers.hash

    refused = await propose(client, own, book)
    assert refused.proposal is None
    assert refused.sentence.startswith(
        "Nothing to propose: proposal 1, which was approved, was made of these 467 trades"
    )
    assert await market_drivers.revert(client, own, book, "bob", "a try")
    assert not await market_drivers.revert(client, own, book, "bob", "a try")
    found = await status(own, book)
    assert (found.version, found.operator, found.note, found.proposal) == (2, "bob", "a try", None)
    assert found.weights == POLICY.levers.driver_weights
    assert (await given(own, book, datetime.now(UTC))).policy_hash == POLICY.levers.hash
    [event] = await query(own, "SELECT payload FROM events WHERE type = 'market.drivers.reverted.v1'")
    assert (event["payload"]["book"], event["payload"]["factors"]["BTC"]) == (book, 1.25)


async def test_a_revert_withdraws_what_waits(client: Client, sessions: Sessions, book: str) -> None:
    positions = switching(book, 960)
    await attribute_all(sessions, positions[:480])
    first = await propose(client, sessions, book)
    assert first.proposal is not None
    await decide(sessions, first.proposal, "approve")
    await attribute_all(sessions, positions[480:])
    second = await propose(client, sessions, book)
    assert second.proposal == f"drivers/{book}/2"
    assert "BTC x 1.25 -> x 1.5" in second.sentence
    assert await market_drivers.revert(client, sessions, book, "bob", "")
    assert await state_of(sessions, second.proposal) == ApprovalState.withdrawn
    assert (await decide(sessions, second.proposal, "approve")).accepted is False
    third = await propose(client, sessions, book)  # what was withdrawn was never decided on
    assert "BTC x 1 -> x 1.25" in third.sentence


async def test_a_removed_book_has_the_policys_weights(client: Client, sessions: Sessions, book: str) -> None:
    await attribute_all(sessions, switching(book))
    answer = await propose(client, sessions, book)
    assert answer.proposal is not None
    await decide(sessions, answer.proposal, "approve")
    await book_archive.remove(client, sessions, SUBJECTS, book, "bob")
    found = await status(sessions, book)
    assert (found.version, found.operator, found.note) == (2, "bob", "the book was removed")
    assert found.weights == POLICY.levers.driver_weights
    with pytest.raises(BookArchived):
        await propose(client, sessions, book)


@pytest.mark.parametrize(("verdict", "state"), [("reject", "rejected"), (None, "expired")])
async def test_what_is_not_approved_changes_nothing(
    client: Client, sessions: Sessions, book: str, verdict: str | None, state: str
) -> None:
    await attribute_all(sessions, switching(book))
    answer = await propose(client, sessions, book)
    assert answer.proposal is not None
    if verdict is None:
        async with sessions.begin() as session:
            await session.execute(
                text("UPDATE driver_proposals SET deadline = now() - interval '1 s' WHERE book_id = :book"),
                {"book": book},
            )
    await decide(sessions, answer.proposal, verdict)
    assert await state_of(sessions, answer.proposal) == state
    assert (await status(sessions, book)).version == 0
    assert f"which was {state}" in (await propose(client, sessions, book)).sentence


async def test_nothing_is_proposed_of_noise_and_of_nothing(client: Client, sessions: Sessions, book: str) -> None:
    with pytest.raises(NotOnRecord):
        await propose(client, sessions, book)
    await attribute_all(sessions, switching(book, 240, lift=0.0))
    answer = await propose(client, sessions, book)
    assert answer.proposal is None
    assert answer.sentence.startswith("Nothing to propose: 238 trades do not tell of any driver"), answer.sentence
    for name in ("drivers/nobody/1", f"drivers/{book}/x", f"drivers/{book}/99999999999"):
        with pytest.raises(NotOnRecord):
            await state_of(sessions, name)
