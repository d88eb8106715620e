"""Every SQL statement of the project, as async functions over a session."""
