"""How large what a workflow or an activity answers may be.

Temporal refuses a larger answer, and the worker would give it again, for ever. Reports are therefore bounded where they
are made (models/bounded.py); what grows past the limit all the same fails with a type and a sentence.
"""

from collections.abc import Iterable
from typing import Any

from temporalio import activity, workflow
from temporalio.converter import PayloadConverter
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    ExecuteWorkflowInput,
    Interceptor,
    StartActivityInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

MAX_ANSWER_BYTES = 2 * 1024 * 1024 - 64 * 1024
"""Temporal's own limit is 2 MiB, with what it adds to an answer."""
TOO_LARGE = "ResultTooLarge"


class AnswerSize(Interceptor):
    """Fails a workflow or an activity whose answer is too large, and an activity that is asked too much at once."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """See the class."""
        return _OfActivities(next)

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """See the class."""
        return _OfWorkflows


class _OfActivities(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        result = await super().execute_activity(input)
        _check(activity.payload_converter(), [result], f"the answer of {activity.info().activity_type}")
        return result


class _OfWorkflows(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(_OfQuestions(outbound))

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        result = await super().execute_workflow(input)
        _check(workflow.payload_converter(), [result], f"the answer of {workflow.info().workflow_type}")
        return result


class _OfQuestions(WorkflowOutboundInterceptor):
    def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[Any]:
        _check(workflow.payload_converter(), input.args, f"what {input.activity} is asked")
        return super().start_activity(input)


def _check(converter: PayloadConverter, values: Iterable[Any], what: str) -> None:
    size = sum(payload.ByteSize() for payload in converter.to_payloads(list(values)))
    if size > MAX_ANSWER_BYTES:
        raise ApplicationError(
            f"{what} has {size:,} bytes, more than the {MAX_ANSWER_BYTES:,} that Temporal takes: ask for less at once, "
            "such as for one book",
            type=TOO_LARGE,
            non_retryable=True,
        )
