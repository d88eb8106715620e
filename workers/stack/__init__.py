"""The local stack: PostgreSQL, Temporal's development server and a worker, from installed packages."""
