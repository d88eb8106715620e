"""A durable learning service for trading engines, on Temporal and PostgreSQL.

The packages lie at the root of the repository and are imported as ``closeloop.models``, ``closeloop.store``, and so on.
``pyproject.toml`` maps them for wheels; the links in this folder show the same to editable installs, mypy and editors.
"""
