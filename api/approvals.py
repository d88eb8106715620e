"""What waits for an operator: looked at, decided, undone. A decision is bound to what its operator saw."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from closeloop.api.authentication import require
from closeloop.api.bodies import KIB, json_body
from closeloop.api.door import Door, door_of
from closeloop.api.memory import has_tag, tag_of
from closeloop.api.problems import Problem, documented
from closeloop.api.reads import plain, reading
from closeloop.models.approvals import ApprovalAnswer, ApprovalKey, ApprovalState, ApprovalVerdict, ApprovalView
from closeloop.models.errors import NotPossibleNow
from closeloop.models.tokens import Scope, TokenView
from closeloop.models.values import BOOK_PATTERN
from closeloop.models.weights import WeightsVerdict
from closeloop.services import approvals, market_drivers, meta_decisions, weights
from closeloop.services.operator_decisions import hash_of_proposal

router = APIRouter(tags=["approvals"])

LARGEST_NOTE = 16 * KIB
_LOOK = documented(401, 403, 404, 414, 422, 429, 500, 503)
_DECIDE = documented(400, 401, 403, 404, 408, 409, 412, 413, 414, 415, 422, 428, 429, 500, 502, 503)

Kind = Annotated[str, Path(max_length=64)]
Book = Annotated[str, Path(pattern=f"^{BOOK_PATTERN.pattern}$")]
Id = Annotated[str, Path(max_length=200)]
IfMatch = Annotated[str | None, Header(alias="If-Match", max_length=1_000, description="The ETag of what was seen.")]


class DecisionNote(BaseModel):
    """Why an operator decides so; it stands in the audit trail. Who decides is the token's name."""

    model_config = ConfigDict(extra="forbid")

    note: Annotated[str, Field(max_length=4_000)] = ""


@router.get("/v1/approvals/{kind}/{book}/{id}", response_model=None, responses=_LOOK)
async def show(request: Request, kind: Kind, book: Book, id: Id) -> Response:
    """What is proposed, until when it waits, or what became of it. Its ETag is what a decision has to name."""
    door = reading(request, book)
    found = await _find(door, kind, book, id)
    return plain(found, headers={"ETag": _tag(found), "Cache-Control": "private, no-cache"})


def _decision_handler(verdict: str) -> Any:
    async def handler(request: Request, kind: Kind, book: Book, id: Id, if_match: IfMatch = None) -> Response:
        token = require(request, Scope.operate, book)
        door = door_of(request)
        door.limiter.read(token.token_id)
        if if_match is None:
            raise Problem(428, "Say what you have seen: If-Match with the ETag of GET on this proposal.")
        note = DecisionNote.model_validate(await json_body(request, LARGEST_NOTE)).note
        found = await _find(door, kind, book, id)
        if not has_tag(if_match, _tag(found)):
            raise Problem(412, "It has changed since you looked at it, or was decided: look at it again.")
        secret = request.headers["authorization"].split(None, 1)[1]
        answer = await _decide(door, found, verdict, token, note, secret)
        if not answer.accepted:
            raise Problem(409, answer.reason)
        return plain(answer)

    return handler


for _verdict in ("approve", "reject", "revert"):
    router.add_api_route(
        f"/v1/approvals/{{kind}}/{{book}}/{{id}}:{_verdict}",
        _decision_handler(_verdict),
        methods=["POST"],
        summary=f"{_verdict.capitalize()} what is proposed, as it was seen; waits for the answer",
        operation_id=_verdict,
        response_model=None,
        responses=_DECIDE | {200: {"model": ApprovalAnswer, "description": "Carried out"}},
    )


async def _decide(
    door: Door, found: ApprovalView, verdict: str, token: TokenView, note: str, secret: str
) -> ApprovalAnswer:
    if verdict != "revert":
        seen = hash_of_proposal(found)
        return await approvals.send_decision(
            door.client, door.sessions, door.subjects, found, ApprovalVerdict(verdict), "", note, secret, seen=seen
        )
    match found.kind:
        case "weights":
            cycle = f"{found.book}/{found.id}"
            return await weights.send_decision(
                door.client, door.sessions, cycle, WeightsVerdict.revert, "", note, secret
            )
        case "drivers":
            number = int(found.id)
            changed = await market_drivers.revert(door.client, door.sessions, found.book, token.name, note, number)
        case "meta" if found.state is not ApprovalState.approved:
            changed = False
        case "meta":
            changed = await meta_decisions.back_to_shadow(door.sessions, found.book, token.name, note)
        case _:
            raise NotPossibleNow(f"What was approved of {found.kind} ends by itself: there is no revert of it.")
    reason = "it is undone" if changed else "nothing of it is in force"
    return ApprovalAnswer(accepted=changed, state=found.state, reason=reason, operator=token.name)


async def _find(door: Door, kind: str, book: str, id: str) -> ApprovalView:
    async with door.session() as session:
        return await approvals.show(session, door.subjects, ApprovalKey(kind=kind, book=book, id=id).workflow_id)


def _tag(found: ApprovalView) -> str:
    """It changes with what is proposed and with what became of it, and with nothing else."""
    decided: datetime | None = found.decision.at if found.decision else None
    seen = (found.workflow_id, hash_of_proposal(found), found.state, found.outcome or "", str(decided))
    return tag_of("\n".join(seen).encode())
