"""Where the page is served: an address of this machine that nobody else reaches."""

from __future__ import annotations

import socket

HOST = "127.0.0.1"
FIRST_PORT = 7860
TRIED = 100
"""Ports looked at from the first one on."""


def listening(port: int | None) -> socket.socket:
    """A socket that listens already, so that a browser that comes early waits instead of failing.

    Args:
        port: None: the first free one from `FIRST_PORT` on.

    Raises OSError for a port that is taken.
    """
    for number in range(FIRST_PORT, FIRST_PORT + TRIED) if port is None else (port,):
        door = socket.socket()
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((HOST, number))
            door.listen()
        except OSError:
            door.close()
            continue
        return door
    raise OSError(f"Port {port} is taken; choose another with --port." if port else "No port is free; name one with --port.")
