"""How activities are retried and how long they may take: one name for each meaning."""

from datetime import timedelta

from temporalio.common import RetryPolicy

LONGEST_TRANSACTION = timedelta(seconds=30)
"""Longest for an activity that is one short transaction."""

UNTIL_DONE = RetryPolicy(initial_interval=timedelta(milliseconds=500), maximum_interval=timedelta(seconds=15))
"""For what must happen, however long the database is away."""

UNTIL_DONE_SELDOM = RetryPolicy(initial_interval=timedelta(milliseconds=500), maximum_interval=timedelta(minutes=1))
"""For what must happen and nobody waits for."""

UNTIL_NEXT_RUN = RetryPolicy(
    initial_interval=timedelta(milliseconds=500), maximum_interval=timedelta(seconds=15), maximum_attempts=15
)
"""For what the next run of its schedule takes up where this one leaves it."""

ONE_BOOK = RetryPolicy(
    initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1), maximum_attempts=15
)
"""For one book of many: a defect in it must not hold up the others for ever."""

ONCE = RetryPolicy(maximum_attempts=1)
"""For an attempt that has something else behind it."""
