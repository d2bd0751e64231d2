"""A TCP proxy that does to connections what networks do: cuts them, slows them, says nothing."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

Relay = Callable[[int, socket.socket, socket.socket], None]
"""What is done with answers: (number of the connection, from the server, to the client)."""


@contextlib.contextmanager
def proxy(target_url: str, relay: Relay) -> Iterator[str]:
    """URL of a proxy in front of `target_url` until the block ends."""
    target = urlsplit(target_url)
    listener = socket.create_server(("127.0.0.1", 0))
    sockets: list[socket.socket] = []
    number = 0

    def accept() -> None:
        nonlocal number
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((target.hostname, target.port))
            except OSError:  # the target is gone
                client.close()
                continue
            sockets.extend((client, server))
            number += 1
            threading.Thread(target=_pump, args=(client, server), daemon=True).start()
            threading.Thread(target=_run, args=(relay, number, server, client), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for each in sockets:
            each.close()
        thread.join()


def pump(_number: int, server: socket.socket, client: socket.socket) -> None:
    """The relay that does nothing bad."""
    _pump(server, client)


def reset(client: socket.socket) -> None:
    """End a connection as a crash does: with a reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RD)  # wakes the thread that still reads from it and would keep it open
    client.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def _run(relay: Relay, number: int, server: socket.socket, client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        relay(number, server, client)
