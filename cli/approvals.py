"""Telling a workflow what an operator decided, and waiting for its answer."""

import typer
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.service import RPCError, RPCStatusCode

from closeloop.cli.console import fail, out, print_json
from closeloop.models.approvals import ApprovalAnswer, ApprovalKey, ApprovalVerdict


async def say(client: Client, key: ApprovalKey, verdict: ApprovalVerdict, by: str, note: str) -> ApprovalAnswer | None:
    """Tell the workflow that waits what was decided, and wait for its answer; None if no workflow waits."""
    word = {"verdict": verdict, "operator": by, "note": note}
    try:
        answer: ApprovalAnswer = await client.get_workflow_handle(key.workflow_id).execute_update(
            "decide", word, result_type=ApprovalAnswer
        )
    except WorkflowUpdateFailedError as error:
        fail(f"The workflow {key.workflow_id} did not answer: {error.cause}.")
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return None
    return answer


def tell(answer: ApprovalAnswer, as_json: bool) -> None:
    """Print the answer; status 1 if it was not accepted."""
    if as_json:
        print_json(answer)
    else:
        out.print(f"{'accepted' if answer.accepted else 'not accepted'}: {answer.reason}")
    if not answer.accepted:
        raise typer.Exit(1)
