"""What a health check's command may say, and for how long."""

from __future__ import annotations

import os
import socket
import threading

from lxcwrap.supervisor import prober


def test_a_flood_of_output_does_not_keep_a_probe_alive() -> None:
    """It takes too long as any other; the beginning is kept."""
    client, other = socket.socketpair()
    flood = os.open("/dev/zero", os.O_RDONLY)  # always more to be read
    found: list[tuple[int | None, str]] = []
    thread = threading.Thread(
        target=lambda: found.append(prober._follow(client, flood, timeout_s=0.05)), daemon=True
    )
    with client, other:
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    os.close(flood)
    ((exit_code, output),) = found
    assert exit_code is None and 4000 < len(output) < 5000
