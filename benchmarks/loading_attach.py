"""Another process attaches a model that is in dram and has all its tensors, by the messages that agents send.

    python -m benchmarks.loading_attach SOCKET UNITS REPEATS       the other process

Sockets and descriptors go to it as they go to a stage process; it maps, and times itself.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks.loading_data import Sample
from benchmarks.loading_ours import Attachment, Tiers, hand_over
from benchmarks.loading_runs import ROOT
from benchmarks.touch import Fingerprint
from cluster.wire.codec import Channel

_MESSAGE_BYTES = 1 << 20
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Attached:
    """From asking to having all tensors, and from then to having touched every page."""

    attach_s: float
    touch_s: float
    fingerprint: int


def attach_repeatedly(sample: Sample, repeats: int) -> list[Attached]:
    """Load the sample here, and have another process attach it. RuntimeError if that finds other bytes."""
    tiers = Tiers(sample.store_url, {}, sample.model, sample.ssd_dir)
    here, there = Channel.pair()
    here.settimeout(_TIMEOUT_S)
    try:
        held = [hand_over(loaded) for loaded in tiers.load("ssd")]
        command = [sys.executable, "-m", "benchmarks.loading_attach", str(there.fileno()), str(len(held)), str(repeats)]
        process = subprocess.Popen(command, pass_fds=[there.fileno()], cwd=ROOT)
        there.close()
        try:
            channel = Channel(here)
            for _ in range(repeats):
                here.recv(_MESSAGE_BYTES)
                for message, fd in held:
                    channel.send(message, fd)
            found = [Attached(**value) for value in json.loads(here.recv(_MESSAGE_BYTES))]
        finally:
            process.kill()
            process.wait()
    finally:
        here.close()
        tiers.close()
    if any(attached.fingerprint != sample.fingerprint for attached in found):
        raise RuntimeError("the attached tensors are not those that were saved")
    return found


def _attach_once(sock: socket.socket, channel: Channel, units: int) -> Attached:
    started_s = time.perf_counter()
    sock.send(b"attach")
    held = []
    for _ in range(units):
        message, fd = channel.receive()
        if fd is None:
            raise RuntimeError(f"no descriptor came with {message}")
        held.append(Attachment(message, fd))
        os.close(fd)
    attached_s = time.perf_counter()
    found = Fingerprint()
    for attachment in held:
        attachment.populate()
        for name, tensor in attachment.tensors.items():
            found.add(name, tensor)
    touched_s = time.perf_counter()
    return Attached(attached_s - started_s, touched_s - attached_s, found.value)


def main(arguments: Sequence[str]) -> None:
    sock, units, repeats = socket.socket(fileno=int(arguments[0])), int(arguments[1]), int(arguments[2])
    channel = Channel(sock)
    found = [_attach_once(sock, channel, units) for _ in range(repeats)]
    sock.send(json.dumps([asdict(attached) for attached in found]).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
