"""Random numbers that belong to an example, whatever else is in the pool."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt


def draw_uniform(
    ids: Sequence[str], purpose: str, seed: int, round: int
) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for every id, shape (n,): a hash of purpose, seed, round and id.

    Being a function of the id alone, the draw of an example never changes when others join, leave
    or move.
    """
    salt = f"{purpose}:{seed}:{round}:".encode()
    words = [
        int.from_bytes(blake2b(salt + id.encode(), digest_size=8).digest(), "big") for id in ids
    ]
    return (np.array(words, dtype=np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def derive_seed(purpose: str, seed: int, round: int) -> int:
    """A 32-bit seed for a library's generator."""
    return int.from_bytes(
        blake2b(f"{purpose}:{seed}:{round}".encode(), digest_size=4).digest(), "big"
    )
