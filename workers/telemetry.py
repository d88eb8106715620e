"""Logs, traces and metrics of a process. Without an OTLP endpoint, traces and metrics are silent."""

import logging
import sys
from collections.abc import Sequence

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from temporalio.client import Interceptor
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.runtime import (
    LogForwardingConfig,
    LoggingConfig,
    OpenTelemetryConfig,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)

from closeloop.workers.settings import Settings

SERVICE = "closeloop"


def start_logging(settings: Settings) -> None:
    """Structured logs: a JSON object a line on stderr."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)


class Telemetry:
    """What a client and its worker need to be traced and measured."""

    def __init__(self, settings: Settings) -> None:
        self._provider: TracerProvider | None = None
        self.runtime: Runtime | None = None
        self.interceptors: Sequence[Interceptor] = ()
        # The client library's own complaints go where our logs go, never to stdout, which may be a JSON document.
        complaints = LoggingConfig(
            filter=TelemetryFilter(core_level="WARN", other_level="ERROR"),
            forwarding=LogForwardingConfig(logger=logging.getLogger("temporalio.core")),
        )
        if not settings.otlp_endpoint:
            Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=complaints)), error_if_already_set=False)
        else:
            endpoint = settings.otlp_endpoint.rstrip("/")
            self._provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}))
            self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")))
            trace.set_tracer_provider(self._provider)
            self.interceptors = (TracingInterceptor(self._provider.get_tracer(SERVICE)),)
            metrics = OpenTelemetryConfig(url=f"{endpoint}/v1/metrics", http=True, durations_as_seconds=True)
            self.runtime = Runtime(
                telemetry=TelemetryConfig(logging=complaints, metrics=metrics, global_tags={"service_name": SERVICE})
            )

    def flush(self) -> None:
        """Send what is still buffered. Call it before the process ends: nothing else does."""
        if self._provider is not None:
            self._provider.shutdown()
