"""What a workflow was started with, checked before anything else.

A missing argument, one too many, null or bytes would otherwise fail the workflow's task again and again, for ever.
"""

import inspect
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

with workflow.unsafe.imports_passed_through():
    from closeloop.models.refusals import TOO_LONG
    from closeloop.models.values import MAX_MESSAGE_BYTES

T = TypeVar("T")


def expect(message: T | None, kind: type[T]) -> T:
    """The message, if it is of this kind. Raises a non-retryable error otherwise: the workflow fails at once."""
    if not isinstance(message, kind):
        raise _refused(f"one argument, a {kind.__name__} as a JSON object")
    return message


NOTHING = RawValue(Payload(metadata={"encoding": b"binary/null"}))


def received(message: RawValue, kind: type[T]) -> T:
    """The message that an engine sent, read from what arrived: as large as a file's line may be, and of this kind.

    Raises a non-retryable error otherwise, and pydantic's where a field is refused.
    """
    if len(message.payload.data) > MAX_MESSAGE_BYTES:
        raise ApplicationError(TOO_LONG, type="MessageRefused", non_retryable=True)
    return expect(workflow.payload_converter().from_payload(message.payload, kind), kind)


class ArgumentCount(Interceptor):
    """Fails a workflow that was started with more arguments than it has."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """See the class."""
        return _ArgumentCount


class _ArgumentCount(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        wanted = len(inspect.signature(input.run_fn).parameters) - 1  # without self
        if len(input.args) > wanted:
            raise _refused(f"{wanted} argument{'' if wanted == 1 else 's'}, and {len(input.args)} were given")
        return await super().execute_workflow(input)


def _refused(what: str) -> ApplicationError:
    return ApplicationError(f"the workflow needs {what}", type="MessageRefused", non_retryable=True)
