"""The launcher: imports once what all nodes of this machine need, then forks one on demand, there in milliseconds.

Run as ``python -m firsttoken.launcher FD CONFIG`` by the supervisor, FD being its end of a packet socket; launching.py has
the other end, and says what they tell each other. What is forked is in every way what its command line would have
started, in a session of its own, but for what it need not import. It does not end with the launcher: that is for the
supervisor to see to, or its guard. One thread and no event loop: neither survives a fork.
"""

import json
import os
import selectors
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cluster.node.parentage import be_called, show_as
from firsttoken import cli
from firsttoken.components import preload_nodes
from firsttoken.settings import load_settings

_MESSAGE_BYTES = 1 << 16


def main() -> None:
    """Serve until the supervisor closes the socket or is gone; in what is forked, be the component."""
    be_called("launcher")
    launcher = _Launcher(socket.socket(fileno=int(sys.argv[1])))
    preload_nodes(load_settings(Path(sys.argv[2]), {}))
    arguments = launcher.serve()
    if arguments is not None:
        sys.argv[1:] = arguments
        cli.main()


class _Launcher:
    """What it has made, by pidfd, and whom it tells of that."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._selector = selectors.DefaultSelector()
        self._made: dict[int, int] = {}

    def serve(self) -> Sequence[str] | None:
        """Make what is ordered and tell how it ends, until the supervisor is gone. In a fork: the arguments of what it is."""
        self._selector.register(self._sock, selectors.EVENT_READ)
        with suppress(ConnectionError):
            self._tell(imported=True)
            while True:
                for key, _ in self._selector.select():
                    if key.fd in self._made:
                        self._tell_end(key.fd)
                        continue
                    order, fds, _, _ = socket.recv_fds(self._sock, _MESSAGE_BYTES, 2)
                    if not order:
                        return None
                    if (arguments := self._make(fds=fds, **json.loads(order))) is not None:
                        return arguments
        return None

    def _make(self, number: int, arguments: Sequence[str], fds: Sequence[int]) -> Sequence[str] | None:
        """In what is made: `arguments`. The supervisor hears of it, or why there is none."""
        try:
            log, go = fds
            pid = os.fork()
            if pid == 0:
                self._let_go()
                _become(arguments, log, go)
                return arguments
            pidfd = os.pidfd_open(pid)
        except (OSError, ValueError) as error:  # no process to be had, or no descriptor
            self._tell(number=number, fault=str(error))
            return None
        finally:
            for fd in fds:
                os.close(fd)
        self._made[pidfd] = pid
        self._selector.register(pidfd, selectors.EVENT_READ)
        self._tell(pidfd, number=number, pid=pid)
        return None

    def _tell_end(self, pidfd: int) -> None:
        self._selector.unregister(pidfd)
        os.close(pidfd)
        pid, status = os.waitpid(self._made.pop(pidfd), 0)
        self._tell(ended=pid, status=os.waitstatus_to_exitcode(status))

    def _tell(self, *fds: int, **message: object) -> None:
        socket.send_fds(self._sock, [json.dumps(message).encode()], fds)

    def _let_go(self) -> None:
        """In a fork: of all that is the launcher's."""
        self._selector.close()
        self._sock.close()
        for pidfd in self._made:
            os.close(pidfd)


def _become(arguments: Sequence[str], log: int, go: int) -> None:
    """In a fork: leave the launcher's session, once the supervisor has seen to it that this process ends with the platform.
    If the supervisor is gone instead, end here."""
    os.setsid()
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    show_as(sys.executable, "-m", "firsttoken", *arguments)
    be_called(arguments[0])
    if not os.read(go, 1):
        os._exit(1)


if __name__ == "__main__":
    main()
