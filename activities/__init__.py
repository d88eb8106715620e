"""Effects: load through ``store/``, compute through ``learning/``, write through ``store/``. Idempotent."""
