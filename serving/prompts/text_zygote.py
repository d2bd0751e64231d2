"""The zygote of text processes: imports once what tokenizers and chat templates need, then forks a process on demand.

Run as ``python -m serving.prompts.text_zygote FD FOLDER`` by the front end, FD being its end of a packet channel. A `Fork`
that comes with a descriptor makes a child that talks on it; the answer carries a pidfd. When the channel closes, the front
end is gone or closes: then the zygote removes FOLDER and ends, and the kernel ends its children, whatever they are at.
"""

import ctypes
import gc
import logging
import os
import shutil
import signal
import socket
import sys
from pathlib import Path

from cluster.importing import uncollected
from serving.torchless import refuse_torch

_log = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1


def preload() -> None:
    """Import what every child needs."""
    refuse_torch()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with uncollected():
        from serving.prompts import text_process, tokenizing  # noqa: F401

        tokenizing.preload()
    gc.collect()
    gc.freeze()


def main() -> None:
    """Serve forks until the front end closes the channel."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the front end ends us by closing the channel
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
    channel_fd, folder = int(sys.argv[1]), sys.argv[2]
    preload()
    _serve(channel_fd)
    shutil.rmtree(folder, ignore_errors=True)


def _serve(channel_fd: int) -> None:
    from cluster.wire.codec import Channel
    from cluster.wire.forks import Fork, Forked, NotForked

    channel = Channel(socket.socket(fileno=channel_fd))
    while True:
        try:
            message, fd = channel.receive()
        except EOFError:
            return
        if not isinstance(message, Fork) or fd is None:
            continue
        zygote = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:  # the system has no process to give now
            os.close(fd)
            channel.send(NotForked(message.number, str(error)))
            continue
        if pid == 0:
            channel.close()
            _be_child(fd, zygote)
        os.close(fd)
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:  # dead already; its socket tells the front end
            channel.send(Forked(message.number, pid))
            continue
        channel.send(Forked(message.number, pid), pidfd)
        os.close(pidfd)


def _be_child(fd: int, zygote: int) -> None:
    """In the child: answer requests until the socket closes, and never return into the zygote's loop."""
    from serving.prompts.text_process import answer

    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getppid() == zygote:
            Path("/proc/self/oom_score_adj").write_text("800")  # rather this one than the front end
            answer(socket.socket(fileno=fd))
        code = 0
    except Exception:
        _log.exception("a text process failed")
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
