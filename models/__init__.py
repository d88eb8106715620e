"""Words: what is stored and what is said. SQLModel tables, pydantic messages, enums; no I/O."""
