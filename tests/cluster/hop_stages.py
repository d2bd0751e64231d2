"""One of two stages that only talk: `python hop_stages.py RANK STORE_FILE`. Prints what came, as JSON."""

import json
import sys
from dataclasses import astuple

import deepspeed
import torch
from torch.distributed import FileStore

from cluster.stage.joining.hop import Header, Neighbours, Op
from cluster.stage.joining.membership import join, leave
from cluster.stage.steps import Choice, Segment
from cluster.wire.requests import TokenLogprobs
from storage_tiers.pooling import Mode

HIDDEN = 16
SIZES = (1, 7, 8, 9, 40, 128, 700)
"""Segments of a step: fewer than a header's first message takes, as many, and more."""
TIMEOUT_S = 60.0


def header(segments: int) -> Header:
    """A step whose numbers need more than 32 bits."""
    poolings: tuple[Mode | None, ...] = (None, "mean", "last")
    made = tuple(
        Segment(2**40 + i, i % 3 + 1, i * 1000, i % 2 == 0, 64 + i, i // 2, poolings[i % 3]) for i in range(segments)
    )
    return Header(Op.STEP, made, extra_bytes=len(extra(segments)))


def hidden(segments: int) -> torch.Tensor:
    """Hidden states of the step, as a view that is not contiguous."""
    count = header(segments).tokens * HIDDEN
    return torch.arange(float(count)).reshape(1, HIDDEN, -1).transpose(1, 2) / 7


def extra(segments: int) -> bytes:
    """Parameters; every second step has none, and the largest has more than a packet of them."""
    return bytes(i % 251 for i in range(segments * 300)) if segments % 2 == 0 else b""


def choices(segments: int) -> list[Choice]:
    """What the step gives, every fifth no token; every third of those of an odd number was asked for log probabilities."""
    return [
        Choice(
            2**33 + i if i % 5 else None,
            TokenLogprobs(-i / 3, ((i, -0.5), (i + 1, -1e9))) if segments % 2 and i % 3 == 0 else None,
        )
        for i in range(segments)
    ]


def vectors(segments: int) -> list[torch.Tensor]:
    """Of a width that is not the hidden states'; every second step gives none."""
    return [torch.arange(3.0) / 7 + i for i in range(segments)] if segments % 2 else []


def first(neighbours: Neighbours) -> list[object]:
    """Send everything, then take what the steps gave."""
    for segments in SIZES:
        neighbours.send(header(segments), hidden(segments), extra(segments))
        neighbours.send(Header(Op.FORGET, slots=tuple(range(segments))))
    neighbours.send(Header(Op.ALIVE))
    neighbours.send(Header(Op.STOP))
    came = []
    for segments in SIZES:
        came.append([astuple(choice) for choice in neighbours.receive_choices(segments)])
        given = neighbours.receive_vectors(len(vectors(segments)))
        assert [row.tolist() for row in given] == [row.tolist() for row in vectors(segments)]
    neighbours.drain()
    return came


def last(neighbours: Neighbours) -> list[object]:
    """Take everything; whether the hidden states and parameters are those that were sent is told here."""
    came: list[object] = []
    while True:
        got, states, data = neighbours.receive()
        count = len(got.segments)
        same = got.op is not Op.STEP or (states is not None and torch.equal(states, hidden(count)))
        came.append([got.op, [astuple(segment) for segment in got.segments], got.slots, same, data.hex()])
        if got.op is Op.STEP:
            neighbours.send_choices(choices(count))
            neighbours.send_vectors(vectors(count))
        if got.op is Op.STOP:
            neighbours.drain()
            return came


def main(rank: int, store_file: str) -> None:
    deepspeed.ops.__compatible_ops__ = {}  # one would be compiled, as in no stage process
    device = join(FileStore(store_file, 2), rank, 2, torch.device("cpu"), TIMEOUT_S)
    neighbours = Neighbours(rank, 2, HIDDEN, torch.float32, device)
    neighbours.connect(TIMEOUT_S, sys.exit, lambda: None)
    came = (last if rank else first)(neighbours)
    json.dump(came, sys.stdout)
    leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
