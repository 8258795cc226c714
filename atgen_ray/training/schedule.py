"""Schedule of a training: the examples of every optimiser step, and their distribution over
workers. Pure functions of the seed.

The examples of a step are drawn before they are distributed. So workers, accumulation and padding
decide how a step is computed, never what it learns.
"""

import math
from collections.abc import Sequence

import numpy as np

STATE = "trainer_state.json"  # marks a checkpoint of an unfinished training

# Micro-batches of one worker, each the indices of its examples; some may be empty.
Step = list[list[int]]


def count_steps(examples: int, batch_size: int, epochs: float) -> int:
    """Return the optimiser steps of `epochs` passes; the last batch of a pass may be smaller."""
    return max(1, math.ceil(math.ceil(examples / batch_size) * epochs))


def schedule_steps(
    lengths: Sequence[int],
    batch_size: int,
    epochs: float,
    seed: int,
    workers: int = 1,
    accumulation: int = 1,
) -> list[list[Step]]:
    """Return the micro-batches of every optimiser step and worker.

    Args:
        lengths: tokens of each example. Examples of similar length share a micro-batch, which saves
            padding, and workers get similar numbers of tokens, so that none waits long for another.
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
    """Distribute a batch over the workers by length, longest first, and cut each share into
    micro-batches of similar length.
    """
    ordered = sorted(batch, key=lambda index: (-lengths[index], index))
    shares: list[list[int]] = [[] for _ in range(workers)]
    for position, index in enumerate(ordered):
        turn, worker = divmod(position, workers)
        # Every second turn goes backwards: else the first worker would get the longest of each.
        shares[worker if turn % 2 == 0 else workers - 1 - worker].append(index)
    return [
        [part.tolist() for part in np.array_split(np.array(share, dtype=int), accumulation)]
        for share in shares
    ]
