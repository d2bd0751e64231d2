"""What it costs to pass hidden states from one stage process to the next: a ping-pong between two processes."""

import multiprocessing
import os
import statistics
import time
from datetime import timedelta
from multiprocessing.connection import Connection

from benchmarks.generation_model import MeasuredModel

HOPS, WARM_UP = 2000, 200
_DEADLINE_S = 60.0
_HOST = "127.0.0.1"


def hop_us(model: MeasuredModel, tokens: int) -> float:
    """Median microseconds from one stage to the next, for the hidden states of one token of `tokens` requests."""
    from torch.distributed import TCPStore

    store = TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    ends = [
        spawn.Process(
            target=_play, args=(rank, store.port, model.hidden_size, model.dtype, tokens, theirs), daemon=True
        )
        for rank in (0, 1)
    ]
    try:
        for end in ends:
            end.start()
        if not ours.poll(_DEADLINE_S):
            raise TimeoutError("two stage processes did not find each other")
        return float(ours.recv()) * 1e6
    finally:
        for end in ends:
            end.kill()
            end.join()


def _play(rank: int, port: int, hidden_size: int, dtype: str, tokens: int, found: Connection) -> None:
    """One end. Both do what neighbours in a group of two do; the first takes the time there and back."""
    from cluster.node.rendezvous import interface_of

    os.environ |= {"GLOO_SOCKET_IFNAME": interface_of(_HOST), "LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    import deepspeed
    import torch
    from torch.distributed import TCPStore

    from cluster.stage.joining.hop import Header, Neighbours, Op
    from cluster.stage.steps import Segment

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled on first use
    timeout = timedelta(seconds=_DEADLINE_S)
    store = TCPStore(_HOST, port, is_master=False, wait_for_workers=False, timeout=timeout)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timeout)
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)
    neighbours = Neighbours(rank, 2, hidden_size, getattr(torch, dtype), torch.device("cpu"))
    header = Header(Op.STEP, tuple(Segment(slot, 1, 40, True, 96) for slot in range(tokens)))
    hidden = torch.zeros(1, tokens, hidden_size, dtype=getattr(torch, dtype))
    times_s = []
    for _ in range(WARM_UP + HOPS):
        started_s = time.perf_counter()
        if rank == 0:
            neighbours.send(header, hidden)
            neighbours.receive()
        else:
            neighbours.send(*neighbours.receive()[:2])
        times_s.append(time.perf_counter() - started_s)
    neighbours.drain()
    if rank == 0:
        found.send(statistics.median(times_s[WARM_UP:]) / 2)
    time.sleep(_DEADLINE_S)  # until killed: whoever ends first breaks the other's connection
