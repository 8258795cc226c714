"""Random numbers by hash: that of an example depends on its id, not on the rest of the pool."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from atgen_ray.core.hashing import digest_number


def draw_uniform(
    ids: Sequence[str], purpose: str, seed: int, round: int
) -> npt.NDArray[np.float64]:
    """Return a number in [0, 1) for every id, shape (n,): a hash of purpose, seed, round and id.

    The draw of an example never changes when others join, leave or move.
    """
    salt = f"{purpose}:{seed}:{round}:".encode()
    words = [digest_number(salt, id, size=8) for id in ids]
    # 53 bits are what a float64 holds exactly.
    return (np.array(words, dtype=np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def derive_seed(purpose: str, seed: int, round: int) -> int:
    """Return a 32-bit seed for a library's generator."""
    return digest_number(f"{purpose}:{seed}:{round}", size=4)
