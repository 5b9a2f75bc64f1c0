"""What hangs together in a graph."""

from __future__ import annotations

import torch
from torch import Tensor


def components(first: Tensor, second: Tensor, count: int) -> Tensor:
    """The connected components of a graph: what chains of edges join has one number.

    Args:
        first: ``[E]`` int64 nodes below ``count``.
        second: ``[E]`` the nodes that they are joined to.
        count: of nodes.

    Returns:
        ``[count]`` int64, the lowest node of each node's component.

    Example:
        >>> components(torch.tensor([3, 1]), torch.tensor([1, 4]), count=5).tolist()
        [0, 1, 2, 1, 1]
    """
    roots = torch.arange(count)
    while True:
        low = torch.minimum(roots[first], roots[second])
        hooked = roots.clone()
        for end in (first, second):
            hooked.scatter_reduce_(0, roots[end], low, "amin")
        while not torch.equal(shorter := hooked[hooked], hooked):
            hooked = shorter
        if torch.equal(hooked, roots):
            return roots
        roots = hooked
