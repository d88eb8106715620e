"""How activities are retried and how long they may take: one name for each meaning."""

from datetime import timedelta

from temporalio.common import RetryPolicy

LONGEST_TRANSACTION = timedelta(seconds=30)
"""After which an attempt at an activity that is one short transaction is given up and made again."""

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
"""For an attempt that another way follows where it fails."""

TWO_ATTEMPTS = RetryPolicy(maximum_attempts=2)
"""For asking the price source: what it does not answer is asked for by the next run."""

FIVE_ATTEMPTS = RetryPolicy(maximum_attempts=5)
"""For the catch-up, whose next run is five minutes away."""

UNTIL_MODEL_ANSWERS = RetryPolicy(initial_interval=timedelta(seconds=5), maximum_interval=timedelta(minutes=10))
"""For asking a language model: one that is overloaded is asked less and less often."""
