"""The guard: a tiny process that outlives a killed supervisor just long enough to end what it started.

Its arguments are the process groups that run already. The supervisor holds the only write end of the guard's standard
input and names on it each group that it starts (``+<group>``) or has seen to its end (``-<group>``). When the pipe closes
with groups left, the supervisor is gone (kill -9, out of memory): the guard asks their leaders to end, and kills whole
groups after a grace. Run as a script, standard library only: it must be up before the first component is.
"""

import contextlib
import os
import select
import signal
import sys
import time

GRACE_S = 10.0


def main() -> None:
    """Watch until standard input ends, then leave nothing running."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    groups = [int(group) for group in sys.argv[1:]]
    for line in sys.stdin:
        group = int(line[1:])
        if line[0] == "+":
            groups.append(group)
        elif group in groups:
            groups.remove(group)
    end_groups(groups, GRACE_S)


def end_groups(groups: list[int], grace_s: float) -> None:
    """SIGTERM to the leaders of `groups`; SIGKILL to whatever is left of each when `grace_s` is over."""
    deadline_s = time.monotonic() + grace_s
    leaders = [fd for group in groups if (fd := _signal_leader(group)) is not None]
    for leader in leaders:
        select.select([leader], [], [], max(0.0, deadline_s - time.monotonic()))
        os.close(leader)
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def _signal_leader(group: int) -> int | None:
    try:
        leader = os.pidfd_open(group)
    except ProcessLookupError:
        return None
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(leader, signal.SIGTERM)
    return leader


if __name__ == "__main__":
    main()
