"""The part of the labelled data that is kept from training."""

from collections.abc import Sequence
from hashlib import blake2b


def dev_split(ids: Sequence[str], fraction: float, seed: int) -> set[str]:
    """The ids held out to steer stopping, about `fraction` of them.

    `ids` are in the order in which they were labelled. An id is in the split by a hash of seed and
    id, so membership never changes as further ids are appended. The one exception keeps small sets
    usable: when the first four all fall on the same side, the fifth goes to the other, so that from
    five ids on neither side is empty. Empty when `fraction` is 0.
    """
    if fraction == 0:
        return set()
    inside = [_place(id, seed) < fraction for id in ids]
    if len(ids) >= 5 and len(set(inside[:4])) == 1:
        inside[4] = not inside[0]
    return {id for id, held in zip(ids, inside, strict=True) if held}


def _place(id: str, seed: int) -> float:
    return (
        int.from_bytes(blake2b(f"dev:{seed}:{id}".encode(), digest_size=8).digest(), "big") / 2**64
    )
