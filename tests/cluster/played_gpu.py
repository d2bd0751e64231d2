"""A stage process before a GPU that is played: `python -m tests.cluster.played_gpu FD`. Says on each line what it pins."""

import socket
import sys

import deepspeed
import torch

from cluster.stage.main import live
from cluster.stage.request_server import RequestServer
from cluster.stage.units import NodeMemory
from cluster.wire.codec import Channel
from storage_tiers.tiers.cuda_copy import CudaCopy
from tests.storage_tiers.fake_driver import FakeDriver


class _Telling(FakeDriver):
    """It has room for the copies in the memory of the CPU, which computes with them."""

    def register(self, address: int, size_bytes: int) -> str:
        fault = super().register(address, size_bytes)
        print(size_bytes, flush=True)
        return fault


def main(fd: int) -> None:
    deepspeed.ops.__compatible_ops__ = {}  # one would be compiled, as in no stage process
    torch.set_num_threads(1)
    channel = Channel(socket.socket(fileno=fd))
    live(channel, RequestServer("127.0.0.1"), torch.device("cpu"), NodeMemory(CudaCopy(_Telling())), {})


if __name__ == "__main__":
    main(int(sys.argv[1]))
