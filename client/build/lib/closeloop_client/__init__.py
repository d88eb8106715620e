"""The engine's side of closeloop: it never raises into the engine, never holds it up, and loses nothing it accepted."""

from closeloop_client.client import Closeloop, Written
from closeloop_client.reads import Answer

__all__ = ["Answer", "Closeloop", "Written"]
