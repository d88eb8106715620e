"""Loopback ports for the servers of a test."""

import random
import socket
import sys

# The system gives ports from 32,768 to clients, and 15,432 is the usual one of closeloop's PostgreSQL.
FROM, TO = 16_000, 32_000

# Bound and kept until this process ends: no other test process can reserve them, and no client is given one.
_reserved: list[socket.socket] = []


def reserve_ports(count: int) -> list[int]:
    """Ports that nothing uses. A server may listen there (with SO_REUSEADDR, as servers do), again and again."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(FROM, TO)
        reserved = socket.socket()
        try:
            reserved.bind(("127.0.0.1", port))
        except OSError:
            reserved.close()
            continue
        found.append(port)
        if sys.platform == "linux":
            # Only now: with the option set before, two processes could bind the same port.
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _reserved.append(reserved)
        else:  # elsewhere a socket that only binds keeps a server from listening
            reserved.close()
    return found
