"""Python's garbage collector, set for a worker or the HTTP door."""

import gc

# Python collects garbage after 700 new objects by default. A close makes about 200, so that every third or fourth close
# started a collection, which took a third of an import's time in Python. With these numbers, objects in reference
# cycles are freed later.
OBJECTS_BEFORE_A_COLLECTION = 50_000
COLLECTIONS_BEFORE_OLDER_ONES = 20


def collect_rarely() -> None:
    """Collect garbage rarely, and leave out what the process has loaded by now, which it needs until its end."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_BEFORE_A_COLLECTION, COLLECTIONS_BEFORE_OLDER_ONES, COLLECTIONS_BEFORE_OLDER_ONES)
