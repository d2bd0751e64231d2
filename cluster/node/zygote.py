"""A node's zygote: imports once all that a stage process needs, then forks one on demand, ready in milliseconds.

Run as ``python -m cluster.node.zygote FD AGENT HOST THREADS DEVICE`` by the agent, FD being its end of a packet channel and
AGENT the agent's process id; or forked, by an agent that was itself forked with all that imported. A `Fork` that comes with
a descriptor makes a process that talks on it; the answer carries a pidfd, so that the agent can end and watch it without
racing for process ids.

A stage process is the agent's child, not the zygote's: the zygote forks a process that forks the stage and ends, and
the agent takes in orphans. So the zygote may die and its stages serve on; when the agent dies the kernel ends them all.

multiprocessing's fork server would also import the agent's main module into every child, and offers no end of its own.
"""

import errno
import gc
import importlib
import logging
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import NoReturn

from cluster.importing import uncollected
from cluster.node.parentage import be_called, end_with, show_as
from cluster.wire.codec import Channel
from cluster.wire.forks import Fork, Forked, Imported, NotForked
from cluster.wire.stages import Broken
from cluster.wire.vocabulary import load_vocabulary

_log = logging.getLogger(__name__)
FAMILIES = (
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3", "phi3", "olmo2", "smollm3",
    "granite", "gpt2", "opt", "gpt_neox",
)  # fmt: skip


@dataclass(frozen=True)
class _Stages:
    """What all stage processes are told, and whose children they are."""

    agent: int
    host: str
    threads: int
    device: str


@cache
def preload() -> None:
    """Import and build what every stage needs, once. Starts no thread and touches no accelerator: neither survives a fork."""
    with uncollected():
        import deepspeed

        # None are used. Finding out which there are runs compilers and initialises a GPU's driver; the one that stages
        # would then take (deepspeed_shm_comm) is compiled on first use, for 22 s.
        deepspeed.ops.__compatible_ops__ = {}
        importlib.import_module("cluster.stage.main")
        for family in FAMILIES:
            importlib.import_module(f"transformers.models.{family}.modeling_{family}")
        load_vocabulary()
    gc.collect()
    gc.freeze()  # children share these pages; their collections must not touch them


def preloaded() -> bool:
    """Whether this process, or one that it was forked from, has done so."""
    return preload.cache_info().currsize > 0


def main() -> None:
    """Serve forks until the agent closes the channel."""
    fd, agent, host, threads, device = sys.argv[1:]
    _serve(socket.socket(fileno=int(fd)), _Stages(int(agent), host, int(threads), device))


def be_zygote(sock: socket.socket, agent: int, host: str, threads: int, device: str) -> NoReturn:
    """In a fork of the agent, which has everything imported: serve forks, and never return into what the agent is at."""
    code = 1
    try:
        os.setpgid(0, 0)  # by which its orphans are known
        show_as(sys.executable, "-m", __name__, str(sock.fileno()), str(agent), host, str(threads), device)
        _serve(sock, _Stages(agent, host, threads, device))
        code = 0
    except Exception:
        _log.exception("the zygote broke")
    finally:
        sys.stderr.flush()
        os._exit(code)


def _serve(sock: socket.socket, stages: _Stages) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the agent ends us
    be_called("zygote")
    end_with(stages.agent)
    channel = Channel(sock)
    preload()
    with suppress(EOFError, BrokenPipeError):
        channel.send(Imported())
        while True:
            message, given = channel.receive()
            if given is None:
                channel.send(NotForked(message.number, f"the zygote got no descriptor: {os.strerror(errno.EMFILE)}"))
            else:
                _fork(channel, message, given, stages)
                os.close(given)


def _fork(channel: Channel, order: Fork, given: int, stages: _Stages) -> None:
    """Have a stage process made, and the agent told of it or why there is none."""
    zygote = os.getpid()
    try:
        between = os.fork()
    except OSError as error:
        channel.send(NotForked(order.number, str(error)))
        return
    if between == 0:
        _be_between(channel, order, given, stages, zygote)
    _, status = os.waitpid(between, 0)
    if status != 0:
        channel.send(NotForked(order.number, "the process that should fork it died"))


def _be_between(channel: Channel, order: Fork, given: int, stages: _Stages, zygote: int) -> NoReturn:
    """Be the stage's parent only until the agent knows the stage, which then becomes the agent's child."""
    told, stage = False, 0
    try:
        end_with(zygote)
        parent = os.pidfd_open(os.getpid())
        stage = os.fork()
        if stage == 0:
            channel.close()
            _be_stage(given, parent, order.measure, stages)
        channel.send(Forked(order.number, stage), os.pidfd_open(stage))
        told = True
    except OSError as error:
        if stage:
            os.kill(stage, signal.SIGKILL)
        channel.send(NotForked(order.number, str(error)))
        told = True
    finally:
        os._exit(0 if told else 1)


def _be_stage(given: int, parent: int, measure: bool, stages: _Stages) -> NoReturn:
    """Be a stage process, and never return into the zygote's loop. `parent` is readable when the parent is dead."""
    code = 1
    sock = socket.socket(fileno=given)
    try:
        from cluster.stage.main import main as be_stage

        be_called("stage")
        select.select([parent], [], [])
        os.close(parent)
        end_with(stages.agent)
        be_stage(sock, stages.host, stages.threads, stages.device, measure)
        code = 0
    except Exception as error:
        _log.exception("a stage process broke")
        Channel(sock).send(Broken(f"{type(error).__name__}: {error}"))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
