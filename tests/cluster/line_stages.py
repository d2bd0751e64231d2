"""One of several stages that open their lines, over gloo: `python line_stages.py RANK DEGREE STORE_FILE DEAD`. Prints what
came of it. The stage DEAD ends when it has joined."""

import os
import sys
from functools import partial

import deepspeed
import torch
from torch.distributed import FileStore

from cluster.errors import StageFailed
from cluster.stage.joining.lines import Lines, open_lines
from cluster.stage.joining.membership import join

TIMEOUT_S = 60.0


def main(rank: int, degree: int, store_file: str, dead: int) -> None:
    deepspeed.ops.__compatible_ops__ = {}  # one would be compiled, as in no stage process
    device = join(FileStore(store_file, degree), rank, degree, torch.device("cpu"), TIMEOUT_S)
    if rank != dead:
        lines = Lines(partial(open_lines, rank, degree, device), TIMEOUT_S, lambda _cause: None)
        try:
            lines.wait()
            sys.stdout.write("open\n")
        except StageFailed as error:
            sys.stdout.write(f"{error}\n")
    sys.stdout.flush()
    os._exit(0)  # as stages do, who wait for nobody


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
