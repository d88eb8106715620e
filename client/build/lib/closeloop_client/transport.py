"""One HTTP request with a deadline by the clock, whatever the other side does."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

LARGEST_ANSWER = 8 * 1024 * 1024
READ_SECONDS, WRITE_SECONDS = 2.0, 5.0
LONGEST_PAUSE = 3600.0
_CHUNK = 64 * 1024


class Unanswered(Exception):
    """No answer came: no connection, past the deadline, or what came was no HTTP. The text says why."""


class Reply(NamedTuple):
    """An answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_problem(self) -> bool:
        """Whether closeloop itself says what is wrong; what stands between may answer with the same status."""
        return self.headers.get("content-type", "").startswith("application/problem+json")

    @property
    def retry_after(self) -> float:
        """For how long the server asks to be left alone (s)."""
        told = self.headers.get("retry-after", "")
        return min(float(told), LONGEST_PAUSE) if re.fullmatch(r"[0-9]{1,9}", told) else 1.0


class Transport:
    """Asks one server. Redirects are not followed, proxies of the environment not used."""

    def __init__(self, url: str, token: str, describe: Callable[[], str] = lambda: "") -> None:
        """``describe``: what the client says of itself with each request. Raises ValueError for what is no URL."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the URL must be http:// or https://, with a host")
        if not re.fullmatch(r"[\x21-\x7e]*", token):
            raise ValueError("the token has characters that no token has")
        self._https = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port or (443 if self._https else 80)
        self._base = parts.path.rstrip("/")
        self._token = token
        self._describe = describe
        self._context = ssl.create_default_context() if self._https else None

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        """The answer, within 2 s for a read and 5 s for a write. Raises Unanswered."""
        seconds = READ_SECONDS if method == "GET" else WRITE_SECONDS
        deadline = time.monotonic() + seconds
        connection: http.client.HTTPConnection
        if self._context is not None:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=seconds, context=self._context)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=seconds)
        sent = {"Authorization": f"Bearer {self._token}", "Accept": "application/json", "Connection": "close"}
        if described := self._describe():
            sent["Closeloop-Client"] = described
        if body is not None:
            sent["Content-Type"] = "application/json"
        ended = threading.Event()
        watch = threading.Timer(seconds, _end, (connection, ended))
        watch.daemon = True
        watch.start()
        try:
            connection.request(method, self._base + path, body, {**sent, **(headers or {})})
            response = connection.getresponse()
            parts: list[bytes] = []
            size = 0
            while True:
                part = response.read1(_CHUNK)
                if not part:
                    break
                size += len(part)
                if size > LARGEST_ANSWER:
                    raise Unanswered("the answer is too long")
                if time.monotonic() > deadline:
                    raise Unanswered("the answer took too long")
                parts.append(part)
            if ended.is_set() or (response.length or 0) > 0:
                raise Unanswered("the answer was cut off")
            found = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, found, b"".join(parts))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unanswered("the deadline has passed" if ended.is_set() else type(error).__name__) from None
        finally:
            watch.cancel()
            connection.close()


def _end(connection: http.client.HTTPConnection, ended: threading.Event) -> None:
    """End a call whose deadline has passed: whatever waits on its socket wakes up."""
    ended.set()
    try:
        if connection.sock is not None:
            connection.sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
