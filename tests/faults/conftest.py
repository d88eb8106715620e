"""Stacks of a test's own, ended with it."""

from collections.abc import AsyncIterator, Callable

import pytest

from tests.faults.stack_process import StackProcess


@pytest.fixture
async def new_stack() -> AsyncIterator[Callable[[], StackProcess]]:
    """Makes stacks, not yet started, each with a home of its own; what runs of them at the end of the test is ended."""
    made: list[StackProcess] = []

    def make() -> StackProcess:
        made.append(StackProcess())
        return made[-1]

    yield make
    for stack in made:
        await stack.close()
