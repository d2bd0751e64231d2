"""A node's zygote: imports once all that a stage process needs, then forks one on demand, ready in milliseconds.

Run as ``python -m cluster.zygote FD HOST THREADS DEVICE`` by the agent, FD being its end of a packet channel. A `Fork`
that comes with a descriptor makes a child that talks on it; the answer carries a pidfd, so that the agent can end and
watch the child without racing for process ids. When the channel closes the zygote ends, and its children with it.

multiprocessing's fork server would also import the agent's main module into every child, and offers no end of its own.
"""

import gc
import importlib
import os
import signal
import socket
import sys

from cluster.messages import Fork, Forked, load_vocabulary
from cluster.wire import Channel

FAMILIES = (
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3", "phi3", "olmo2", "smollm3",
    "granite", "gpt2", "opt", "gpt_neox",
)  # fmt: skip


def preload() -> None:
    """Import and build what every stage needs. Starts no thread and touches no accelerator: neither survives a fork."""
    import deepspeed

    # None are used. Finding out which there are runs compilers and initialises a GPU's driver; the one that stages would
    # then take (deepspeed_shm_comm) is compiled on first use, for 22 s.
    deepspeed.ops.__compatible_ops__ = {}
    importlib.import_module("cluster.stage")
    for family in FAMILIES:
        importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    load_vocabulary()
    gc.collect()
    gc.freeze()  # children share these pages; their collections must not touch them


def main() -> None:
    """Serve forks until the agent closes the channel."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the agent ends us by closing the channel
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    host, threads, device = sys.argv[2], int(sys.argv[3]), sys.argv[4]
    preload()
    while True:
        try:
            message, fd = channel.receive()
        except EOFError:
            return
        if not isinstance(message, Fork) or fd is None:
            continue
        pid = os.fork()
        if pid == 0:
            channel.close()
            _be_stage(fd, host, threads, device, message.measure)
        os.close(fd)
        _answer(channel, pid)


def _answer(channel: Channel, pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:  # it is dead already; its channel tells the agent
        channel.send(Forked(pid))
        return
    channel.send(Forked(pid), pidfd)
    os.close(pidfd)


def _be_stage(fd: int, host: str, threads: int, device: str, measure: bool) -> None:
    """In the child: be a stage process, and never return into the zygote's loop."""
    code = 1
    try:
        from cluster.stage import main as be_stage

        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        be_stage(socket.socket(fileno=fd), host, threads, device, measure)
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
