"""The HTTP door: thin handlers over ``services/``. A message is answered once it is committed in PostgreSQL."""
