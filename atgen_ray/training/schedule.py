"""Which examples every optimiser step learns from, and how they are shared out. Pure functions of
the seed.

Ray Train, workers, accumulation and padding decide how a step is computed, never what it learns:
the examples of a step are drawn first, and shared out then.
"""

import math
from collections.abc import Sequence

import numpy as np

STATE = "trainer_state.json"  # marks a checkpoint of an unfinished training

Step = list[
    list[int]
]  # micro-batches of one worker, each the indices of its examples; some may be empty


def count_steps(examples: int, batch_size: int, epochs: float) -> int:
    """Optimiser steps of `epochs` passes; the last batch of a pass may be smaller."""
    return max(1, math.ceil(math.ceil(examples / batch_size) * epochs))


def schedule_steps(
    lengths: Sequence[int],
    batch_size: int,
    epochs: float,
    seed: int,
    workers: int = 1,
    accumulation: int = 1,
) -> list[list[Step]]:
    """For every optimiser step and worker the micro-batches.

    Args:
        lengths: tokens of each example. Examples of like length share a micro-batch, which saves
            padding, and workers get about equally many tokens, so none waits long for another.
    """
    count = len(lengths)
    rng = np.random.default_rng(seed)
    batches: list[list[int]] = []
    total = count_steps(count, batch_size, epochs)
    while len(batches) < total:
        order = rng.permutation(count).tolist()
        batches += [order[at : at + batch_size] for at in range(0, count, batch_size)]
    return [_share(batch, lengths, workers, accumulation) for batch in batches[:total]]


def _share(batch: list[int], lengths: Sequence[int], workers: int, accumulation: int) -> list[Step]:
    """Longest first, to and fro over the workers, as cards are dealt; then in runs of like
    length.
    """
    ordered = sorted(batch, key=lambda index: (-lengths[index], index))
    hands: list[list[int]] = [[] for _ in range(workers)]
    for place, index in enumerate(ordered):
        turn, seat = divmod(place, workers)
        hands[seat if turn % 2 == 0 else workers - 1 - seat].append(index)
    return [
        [part.tolist() for part in np.array_split(np.array(hand, dtype=int), accumulation)]
        for hand in hands
    ]
