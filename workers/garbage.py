"""Python's garbage collector, set for a worker."""

import gc

# A close makes some two hundred objects, so that Python's own 700 would collect after every third of them: that took a
# third of an import's time in Python. What refers to itself lives a little longer for it.
OBJECTS_BEFORE_A_COLLECTION = 50_000
COLLECTIONS_BEFORE_OLDER_ONES = 20


def collect_rarely() -> None:
    """Collect rarely, and never what the process has loaded by now: it stays until the end."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_BEFORE_A_COLLECTION, COLLECTIONS_BEFORE_OLDER_ONES, COLLECTIONS_BEFORE_OLDER_ONES)
