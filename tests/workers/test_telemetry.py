"""Traces and metrics of a real close, received by a real collector: OTLP over HTTP, as protobuf."""

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from closeloop.models.tokens import Scope
from closeloop.workers.settings import Settings
from closeloop.workers.telemetry import Telemetry
from tests.api.doors import api_on
from tests.closes import message
from tests.store.databases import query
from tests.waiting import eventually
from tests.workers.processes import end, line, script

# Spans are sent every five seconds unless somebody flushes: in these tests, only a flush sends them in time.
NEVER_BY_ITSELF = {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}


class Collector:
    """What arrived."""

    def __init__(self) -> None:
        self.status = 200
        self.requests: list[str] = []
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.points: dict[str, list[dict[str, str]]] = {}
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.receive(self.path, body)
                self.send_response(collector.status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def receive(self, path: str, body: bytes) -> None:
        self.requests.append(path)
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
                for scope in resource.scope_spans:
                    self.spans += scope.spans
        elif path == "/v1/metrics":
            for metrics in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for of_scope in metrics.scope_metrics:
                    for metric in of_scope.metrics:
                        data = getattr(metric, metric.WhichOneof("data") or "")
                        self.points[metric.name] = [
                            {a.key: a.value.string_value for a in point.attributes} for point in data.data_points
                        ]

    def chain(self, name: str) -> list[str]:
        """Names of the span and of its ancestors, the oldest first."""
        by_id = {span.span_id: span for span in self.spans}
        [found] = [span for span in self.spans if span.name == name]
        names = [found.name]
        while found.parent_span_id in by_id:
            parent = by_id[found.parent_span_id]
            assert parent.trace_id == found.trace_id
            found = parent
            names.insert(0, found.name)
        return names


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


async def test_a_close_is_one_trace_from_client_to_activity_and_is_counted(
    book: str, settings: Settings, collector: Collector
) -> None:
    environment = NEVER_BY_ITSELF | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    arguments = (f"traced-{book}", json.dumps(message(book)))
    async with script("tests.workers.traced_close", *arguments, home=settings.home, environment=environment) as process:
        assert await line(process) == "closed"

        async def metrics() -> set[str]:
            return set(collector.points)

        ours = {"closeloop_closes_attributed", "closeloop_attribution_seconds"}
        assert ours <= await eventually(metrics, lambda names: ours <= names)
        assert [point["book"] for point in collector.points["closeloop_closes_attributed"]] == [book]
        assert any(name.startswith("temporal_") for name in collector.points), "the client library's own"
        assert collector.spans == [], "nobody has flushed yet"
        assert await end(process) == 0
    assert {"/v1/traces", "/v1/metrics"} == set(collector.requests)
    start = "StartWorkflow:PositionCloseWorkflow"
    assert collector.chain("RunWorkflow:PositionCloseWorkflow") == [start, "RunWorkflow:PositionCloseWorkflow"]
    steps = [f"{step}:attribute_close" for step in ("StartActivity", "RunActivity")]
    assert collector.chain("RunActivity:attribute_close") == [start, *steps]
    assert len({span.trace_id for span in collector.spans}) == 1
    assert collector.services == {"closeloop"}


@pytest.mark.usefixtures("worker")
async def test_a_close_by_http_is_in_the_trace_of_its_request(
    book: str, dsn: str, settings: Settings, collector: Collector
) -> None:
    """From the engine's span, which the request names, over the request's to the start of the workflow."""
    trace_id, engines_span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    async with api_on(dsn, str(settings.home), OTEL_EXPORTER_OTLP_ENDPOINT=collector.url) as api:
        token = await api.token(Scope.ingest)
        headers = {"traceparent": f"00-{trace_id}-{engines_span}-01"}
        assert (await api.ask("POST", "/v1/positions", message(book), token, headers)).status == 202

        async def attributed() -> int:
            sql = "SELECT position_id FROM attributions WHERE book_id = :book"
            return len(await query(api.sessions, sql, book=book))

        assert await eventually(attributed, lambda n: n == 1) == 1
    start = "StartWorkflow:PositionCloseWorkflow"
    chain = collector.chain(start)
    assert (chain[0], chain[-1]) == ("POST /v1/positions", start)
    [request] = [span for span in collector.spans if span.name == "POST /v1/positions"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (trace_id, engines_span)


async def test_without_an_endpoint_nothing_is_sent(book: str, settings: Settings, collector: Collector) -> None:
    """The collector is where the exporters would look by themselves: nobody must have made one."""
    environment = {f"OTEL_EXPORTER_OTLP_{kind}_ENDPOINT": collector.url for kind in ("TRACES", "METRICS")}
    arguments = (f"silent-{book}", json.dumps(message(book)))
    async with script("tests.workers.traced_close", *arguments, home=settings.home, environment=environment) as process:
        assert await line(process) == "closed"
        assert await end(process) == 0
    assert collector.requests == []


def test_without_an_endpoint_there_is_neither_runtime_nor_interceptor(tmp_path: Path) -> None:
    telemetry = Telemetry(Settings.load(tmp_path).model_copy(update={"otlp_endpoint": None}))
    assert telemetry.runtime is None
    assert list(telemetry.interceptors) == []
    telemetry.flush()


async def test_a_collector_that_is_in_trouble_disturbs_no_close_and_nothing_on_stdout(
    book: str, settings: Settings, collector: Collector
) -> None:
    """What the client library complains about belongs on stderr: on stdout, ``--json`` prints one document only."""
    collector.status = 503
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    arguments = (f"trouble-{book}", json.dumps(message(book)))
    async with script("tests.workers.traced_close", *arguments, home=settings.home, environment=environment) as process:

        async def refused() -> int:
            return collector.requests.count("/v1/metrics")

        assert await eventually(refused, lambda count: count >= 2) >= 2
        assert await end(process) == 0
        assert process.stdout is not None
        assert await process.stdout.read() == b"closed\n"
