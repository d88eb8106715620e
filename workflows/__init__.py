"""Workflows: in which order activities run, what is waited for, and which operator is asked; one file a lifecycle."""
