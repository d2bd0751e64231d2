"""A batch's draws as tensors: what `Sampler` does with one row, done with all of them on the logits' device.

Nothing here looks at what it computes: no number comes back to the host, and every size is known beforehand.
Rows are requests, all parameters are (rows, 1) in float64.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 512
"""Tokens whose weights are summed together, so that a draw looks into one block instead of the whole vocabulary."""


@dataclass(frozen=True)
class Odds:
    """How each row is drawn. `point` is uniform in [0, 1); `top_k` is the vocabulary's size where there is none."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    point: Tensor


@dataclass(frozen=True)
class Drawn:
    """`tokens` (rows, 1), and whether a row's look was too short to say: its token is then none."""

    tokens: Tensor
    undecided: Tensor


class Field:
    """The weights of all tokens, (rows, vocabulary), the likeliest's 1; in blocks."""

    def __init__(self, logits: Tensor, greatest: Tensor, temperature: Tensor) -> None:
        """`greatest` (rows, 1) of `logits` (rows, vocabulary)."""
        rows, self._vocabulary = logits.shape
        blocks = -(-self._vocabulary // _BLOCK)
        self._weights = torch.empty(rows, blocks * _BLOCK, dtype=torch.float64, device=logits.device)
        self._weights[:, self._vocabulary :].zero_()
        weights = self._weights[:, : self._vocabulary]
        weights.copy_(logits).sub_(greatest).div_(temperature).exp_()
        self._blocks = self._weights.view(rows, blocks, _BLOCK)

    def sums(self) -> Tensor:
        """Of each block, (rows, blocks)."""
        return self._blocks.sum(-1)

    def keep(self, min_p: Tensor) -> None:
        """Tokens whose weight is less are not drawn."""
        self._weights.mul_(self._weights >= min_p)

    def draw(self, sums: Tensor, point: Tensor) -> Tensor:
        """A token of each row, (rows, 1)."""
        reached = torch.nn.functional.pad(sums.cumsum(-1), (1, 0))  # before each block, and after the last
        aim = point * reached[:, -1:]
        block = (torch.searchsorted(reached, aim, right=True) - 1).clamp_(0, sums.shape[1] - 1)
        inside = self._blocks.gather(1, block.unsqueeze(-1).expand(-1, -1, _BLOCK)).squeeze(1)
        index = _reach(inside.cumsum(-1).add_(reached.gather(1, block)), aim)
        return block.mul_(_BLOCK).add_(index).clamp_(max=self._vocabulary - 1)


def draw_likeliest(logits: Tensor, greatest: Tensor, odds: Odds, look: int, whole: Tensor | None) -> Drawn:
    """A token of each row from those that top_k, then top_p, then min_p leave among the `look` likeliest.

    `whole` (rows, 1) is the weight of all tokens; None if all rows have a top_k, whose tokens' weight is then meant.
    Undecided: it ends with the last that was looked at, or with its equals, and there may be more of them.
    """
    vocabulary = logits.shape[1]
    candidates = None
    if look < vocabulary:
        candidates = torch.topk(logits, look, sorted=False).indices.sort().values
        logits = logits.gather(1, candidates)
    weights = logits.double().sub_(greatest).div_(odds.temperature).exp_()
    weights, order = weights.sort(dim=1, descending=True, stable=True)
    ranks = torch.arange(look, device=logits.device)
    kept = weights * (ranks < odds.top_k)
    count = _count(kept, odds, whole, vocabulary)
    drawn = kept.mul_(ranks < count)
    reached = drawn.mul_(drawn >= odds.min_p).cumsum(-1)
    index = _reach(reached, odds.point * reached[:, -1:])
    tokens = order.gather(1, index)
    if candidates is None:
        return Drawn(tokens, torch.zeros_like(tokens, dtype=torch.bool))
    last = weights.gather(1, (count - 1).clamp_(max=look - 1).long())
    return Drawn(candidates.gather(1, tokens), (last == weights[:, -1:]) & (last > 0.0))


def _count(kept: Tensor, odds: Odds, whole: Tensor | None, vocabulary: int) -> Tensor:
    """How many of the likeliest top_k and top_p leave, (rows, 1); more than there are if top_p is not reached."""
    reached = kept.cumsum(-1)
    all_of_them = reached[:, -1:]
    if whole is not None:
        all_of_them = torch.where(odds.top_k < vocabulary, all_of_them, whole)
    by_p = torch.searchsorted(reached, odds.top_p * all_of_them) + 1
    return torch.where(odds.top_p < 1.0, by_p, odds.top_k)


def _reach(reached: Tensor, aim: Tensor) -> Tensor:
    """The first index at which sums that grow, (rows, n), are above `aim` (rows, 1); no later than where they end growing."""
    index = torch.searchsorted(reached, aim, right=True)
    end = torch.searchsorted(reached, reached.amax(-1, keepdim=True))
    return torch.minimum(index, end).clamp_(max=reached.shape[1] - 1)  # beyond it is who has no numbers
