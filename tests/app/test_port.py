import socket

import pytest

from hf_cl.app.port import HOST, listening


def test_a_free_port_is_found_and_listened_at():
    with listening(None) as first, listening(None) as second:
        ports = [door.getsockname()[1] for door in (first, second)]
        assert ports[0] != ports[1]
        assert all(door.getsockname()[0] == HOST == "127.0.0.1" for door in (first, second))
        with socket.create_connection((HOST, ports[0]), timeout=5):
            pass  # a browser that comes before the server waits


def test_a_port_that_is_taken_is_named():
    with listening(None) as door:
        port = door.getsockname()[1]
        with pytest.raises(OSError, match=f"Port {port} is taken; choose another with --port"):
            listening(port)
