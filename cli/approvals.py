"""Telling a workflow what an operator decided, and waiting for its answer."""

import typer
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.service import RPCError, RPCStatusCode

from cli.connections import temporal
from cli.console import fail, hinting, out, print_json, run
from models.approvals import ApprovalAnswer, ApprovalKey, ApprovalVerdict


def decide(key: ApprovalKey, verdict: ApprovalVerdict, by: str, note: str, as_json: bool) -> None:
    """Say it and print the answer; status 1 if it was not accepted."""
    answer = run(hinting(_ask(key, verdict, by, note)))
    if as_json:
        print_json(answer)
    else:
        out.print(f"{'accepted' if answer.accepted else 'not accepted'}: {answer.reason}")
    if not answer.accepted:
        raise typer.Exit(1)


async def _ask(key: ApprovalKey, verdict: ApprovalVerdict, by: str, note: str) -> ApprovalAnswer:
    async with temporal() as client:
        return await say(client, key, verdict, by, note)


async def say(client: Client, key: ApprovalKey, verdict: ApprovalVerdict, by: str, note: str) -> ApprovalAnswer:
    """Tell the workflow that waits, and wait for its answer."""
    word = {"verdict": verdict, "operator": by, "note": note}
    try:
        answer: ApprovalAnswer = await client.get_workflow_handle(key.workflow_id).execute_update(
            "decide", word, result_type=ApprovalAnswer
        )
    except WorkflowUpdateFailedError as error:
        fail(f"It did not answer: {error.cause}.")
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        fail(f"Nothing waits for a decision under {key.workflow_id}: it was decided, has expired, or never was.")
    return answer
