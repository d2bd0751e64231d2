"""How many threads a step computes with, where several stages of a group share a machine's cores."""

import os

import torch

from schedules.rates import PREFILL_TOKENS


class Cores:
    """Of the threads that torch has now: all for a prompt, since the stages do a first prompt one after the other; a part
    for steps of few tokens, which all stages make at once. Use from the thread that computes."""

    def __init__(self, sharing: int) -> None:
        self._all = self._now = torch.get_num_threads()
        self._part = min(self._all, max(1, len(os.sched_getaffinity(0)) // sharing))

    def turn_to(self, tokens: int) -> None:
        """The next step is of so many tokens."""
        threads = self._all if tokens >= PREFILL_TOKENS else self._part
        if threads != self._now:
            torch.set_num_threads(threads)
            self._now = threads
