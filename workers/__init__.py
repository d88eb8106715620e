"""Processes: wiring, schedules, telemetry, the worker and the local stack."""
