"""Decisions on record: what a signal may only name, because whoever reaches Temporal can read and send signals.

PostgreSQL has a password. A door verifies the operator's token and records there who decided what about which proposal;
the signal or update names that record. The transaction that carries the decision out takes it from the record, once.
"""

import hashlib
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.approvals import ApprovalKey, ApprovalView, Said
from closeloop.models.errors import NotAcceptable
from closeloop.models.operator_decisions import DecisionRecord
from closeloop.models.tokens import Scope
from closeloop.services import tokens

REVERT = "revert"
APPROVE = "approve"
PROPOSE = "propose"
POLICY_ITSELF = "policy"
"""The operator's name where the policy approves a proposal by itself."""

_BARE = (
    "a token is needed (policy approvals.require_token): decide with 'closeloop approvals approve' or 'reject' and "
    "CLOSELOOP_TOKEN; 'closeloop tokens add NAME --scope operate' makes one"
)
_BARE_OF_TWO = "a token is needed (policy approvals.four_eyes): approve with CLOSELOOP_TOKEN, or over HTTP"
_BARE_REVERT = (
    "a decision on record is needed (policy approvals.require_token): 'closeloop weights revert' makes it, also "
    "without a token"
)


@dataclass(frozen=True)
class Heard:
    """Who decides, why and when, by the record where there is one; ``refusal`` says why the word does not count.

    ``repeated``: this very word was answered before, so as the record says.
    """

    operator: str
    note: str
    at: datetime
    record: DecisionRecord | None = None
    refusal: str | None = None
    repeated: bool = False

    @property
    def token(self) -> str | None:
        """The id of the token that the decision was recorded with."""
        return self.record.token_id if self.record else None


async def record(
    session: AsyncSession,
    key: ApprovalKey,
    verdict: str,
    *,
    operator: str,
    note: str,
    secret: str | None,
    proposal: ApprovalView | None,
) -> DecisionRecord:
    """Record a decision, by a token where there is one: then the operator is the token's name. Commits.

    Raises NotAuthenticated, NotAllowed; NotAcceptable where ``operator`` is neither empty nor the token's name.
    """
    token = None if secret is None else await tokens.verify(session, secret, Scope.operate, key.book)
    if token is not None and operator not in ("", token.name):
        raise NotAcceptable(f"The token is that of {token.name}: leave --by away, or say --by {token.name}.")
    decision_id = uuid.uuid4().hex
    values = {
        "verdict": verdict,
        "proposal_hash": None if proposal is None else hash_of_proposal(proposal),
        "operator": token.name if token else operator,
        "note": note,
        "token_id": token.token_id if token else None,
    }
    await store.operator_decisions.add(session, decision_id, key, values)
    made = await store.operator_decisions.hold(session, decision_id)
    assert made is not None, "it was just recorded"
    await session.commit()
    return made


async def record_proposer(session: AsyncSession, proposal: ApprovalView, secret: str) -> None:
    """Record whose token proposed this; the first one stands. Writes in the caller's transaction.

    Raises NotAuthenticated, NotAllowed.
    """
    token = await tokens.verify(session, secret, Scope.operate, proposal.book)
    now = datetime.now(UTC)
    values = {
        "verdict": PROPOSE,
        "proposal_hash": hash_of_proposal(proposal),
        "operator": token.name,
        "note": "",
        "token_id": token.token_id,
        "recorded_at": now,
        "spent_at": now,  # nothing follows from it
    }
    await store.operator_decisions.add(session, f"{PROPOSE}/{proposal.workflow_id}", proposal, values)


async def record_by_policy(session: AsyncSession, proposal: ApprovalView, why: str) -> str:
    """Record that the policy approves a proposal by itself, once; its id. Writes in the caller's transaction."""
    decision_id = f"policy/{proposal.workflow_id}"
    values = {
        "verdict": "approve",
        "proposal_hash": hash_of_proposal(proposal),
        "operator": POLICY_ITSELF,
        "note": why,
        "by_policy": True,
    }
    await store.operator_decisions.add(session, decision_id, proposal, values)
    return decision_id


def hash_of_proposal(proposal: ApprovalView) -> str:
    """First 16 hex digits of the SHA-256 of what is proposed: a decision is on what its operator saw."""
    return hashlib.sha256(proposal.proposal.encode()).hexdigest()[:16]


async def listen(
    session: AsyncSession,
    said: Said,
    verdict: str,
    *,
    required: bool,
    proposal: ApprovalView | None,
    four_eyes: bool = False,
) -> Heard:
    """Who decides by a word: as the record says that it names, which is locked; without one, as the word claims.

    ``required``: whether a word without a record, or whose record has no token, is refused. A revert needs no token:
    undoing must never wait for one. Its record shows that whoever reverts has the database's password. ``four_eyes``:
    whether an approval needs a token, and another one than that which proposed.
    """
    two = four_eyes and verdict == APPROVE
    if said.record is None:
        bare = _BARE_REVERT if verdict == REVERT else _BARE if required else _BARE_OF_TWO
        required = required or two
        return Heard(said.operator, said.note, said.at, refusal=bare if required else None)
    found = await store.operator_decisions.hold(session, said.record)
    if found is None:
        return Heard(said.operator, said.note, said.at, refusal="there is no such decision on record")
    if (found.workflow_id, found.verdict) != (said.workflow_id, verdict):
        reason = f"the decision on record is another one: {found.verdict} of {found.workflow_id}"
        return Heard(said.operator, said.note, said.at, refusal=reason)
    word = said.said_in.name if said.said_in else None
    if found.spent_at is not None:
        if word is not None and word == found.word:
            return Heard(found.operator, found.note, found.recorded_at, found, found.outcome, repeated=True)
        reason = f"the decision on record was used already, at {found.spent_at:%Y-%m-%d %H:%M:%S} UTC: {found.outcome}"
        return Heard(found.operator, found.note, found.recorded_at, refusal=reason)
    reason_not = await _objection(session, found, verdict, required, proposal)
    if reason_not is None and two and not found.by_policy:
        reason_not = await _of_two(session, found)
    return Heard(found.operator, found.note, found.recorded_at, found, reason_not)


async def _objection(
    session: AsyncSession, found: DecisionRecord, verdict: str, required: bool, proposal: ApprovalView | None
) -> str | None:
    if proposal is not None and found.proposal_hash != hash_of_proposal(proposal):
        return "what is proposed has changed since the decision was recorded: look at it again"
    if found.by_policy:
        return None
    if found.token_id is None:
        return _BARE if required and verdict != REVERT else None
    held = await store.tokens.hold(session, found.token_id)
    assert held is not None, "a token is never deleted"
    return tokens.no_longer(held[0], found.recorded_at) or tokens.not_for(held[0], Scope.operate, found.book)


async def _of_two(session: AsyncSession, found: DecisionRecord) -> str | None:
    if found.token_id is None:
        return _BARE_OF_TWO
    proposed = await store.operator_decisions.hold(session, f"{PROPOSE}/{found.workflow_id}")
    # By the name too: a token that was revoked and made anew is the same person's.
    if proposed is None or (proposed.token_id != found.token_id and proposed.operator != found.operator):
        return None
    return f"{proposed.operator} proposed it: another operator has to approve it (policy approvals.four_eyes)"


async def spend(
    session: AsyncSession, said: Said, verdict: str, heard: Heard, sender: str | None, accepted: bool, outcome: str
) -> None:
    """Say on record what became of a word: of the decision that it named, or, carried out without one, as a new one."""
    word = said.said_in.name if said.said_in else None
    if heard.record is not None:
        await store.operator_decisions.spend(session, heard.record.decision_id, word, sender, accepted, outcome)
    elif accepted:
        values = {
            "verdict": verdict,
            "operator": heard.operator,
            "note": heard.note,
            "recorded_at": heard.at,
            "sender": sender,
            "word": word,
            "spent_at": datetime.now(UTC),
            "accepted": True,
            "outcome": outcome,
        }
        await store.operator_decisions.add(session, uuid.uuid4().hex, said, values)
