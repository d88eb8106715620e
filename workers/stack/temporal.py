"""Temporal's development server of the local stack."""

import asyncio
import shutil
import signal
import sysconfig
from datetime import timedelta
from pathlib import Path

from google.protobuf.duration_pb2 import Duration
from temporalio.api.namespace.v1 import NamespaceConfig
from temporalio.api.workflowservice.v1 import UpdateNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

from closeloop.workers.stack.home import Home, StackError
from closeloop.workers.stack.process import Child, end_leftovers, until_up


class LocalTemporal:
    """Temporal's development server, with its web UI, on loopback ports, keeping its data in a file."""

    def __init__(self, home: Home, port: int, ui_port: int, namespace: str, retention: timedelta) -> None:
        self.namespace = namespace
        self._home = home
        self._port = port
        self._ui_port = ui_port
        self._retention = retention

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self._port}"

    @property
    def ui_url(self) -> str:
        """Where its UI is."""
        return f"http://127.0.0.1:{self._ui_port}"

    async def start(self) -> Child:
        """Start the server and wait until it answers. Raises StackError."""
        await asyncio.to_thread(self.end_leftovers)
        child = await Child.spawn(
            "temporal",
            [
                str(binary()),
                *("server", "start-dev", "--ip", "127.0.0.1", "--ui-ip", "127.0.0.1"),
                *("--port", str(self._port), "--ui-port", str(self._ui_port)),
                *("--namespace", self.namespace),
                *("--db-filename", self._home.temporal_db.name),  # a whole path would be read as a URI
                # Readers do not wait for writers. A power cut may lose the last transactions, a killed process none.
                *("--sqlite-pragma", "journal_mode=wal", "--sqlite-pragma", "synchronous=normal"),
                *("--log-level", "error"),
            ],
            log=self._home.logs / "temporal.log",
            stop_signal=signal.SIGINT,
            folder=self._home.path,
        )
        return await until_up(child, self._answer(child))

    def end_leftovers(self) -> None:
        """End a server that a killed run left on this data file."""
        home = str(self._home.path)
        end_leftovers(lambda process: process.name() == "temporal" and process.cwd() == home)

    async def _answer(self, child: Child) -> None:
        for _ in range(300):
            if not child.running:
                raise StackError(f"Temporal did not start ({child.end_of_log()}): see {child.log}.")
            try:
                await _keep_history(await Client.connect(self.address, namespace=self.namespace), self._retention)
            except (RuntimeError, RPCError):
                await asyncio.sleep(0.1)
                continue
            return
        raise StackError(f"Temporal did not answer within a minute: see {child.log}.")


def binary() -> Path:
    """Temporal's CLI: one on PATH, else the installed package's. Raises StackError."""
    if on_path := shutil.which("temporal"):
        return Path(on_path)
    installed = Path(sysconfig.get_path("scripts")) / "temporal"
    if installed.exists():
        return installed
    raise StackError(
        "There is no Temporal server for this platform among the installed packages: install Temporal's CLI on PATH, "
        "or set TEMPORAL_ADDRESS to a server of your own."
    )


async def _keep_history(client: Client, duration: timedelta) -> None:
    """Keep what has ended for so long; the server's default is one day."""
    retention = Duration()
    retention.FromTimedelta(duration)
    await client.workflow_service.update_namespace(
        UpdateNamespaceRequest(
            namespace=client.namespace, config=NamespaceConfig(workflow_execution_retention_ttl=retention)
        )
    )
