"""Dev split: the part of the labelled data that is held out of training to steer stopping."""

from collections.abc import Sequence

from atgen_ray.core.hashing import digest_number


def dev_split(ids: Sequence[str], fraction: float, seed: int) -> set[str]:
    """Return the ids that are held out, about `fraction` of them; none when `fraction` is 0.

    `ids` are in the order of labelling. A hash of seed and id decides, so membership never changes
    as further ids are appended. One exception keeps small sets usable: when the first four fall on
    the same side, the fifth goes to the other, so that from five ids on neither side is empty.
    """
    if fraction == 0:
        return set()
    inside = [_draw(id, seed) < fraction for id in ids]
    if len(ids) >= 5 and len(set(inside[:4])) == 1:
        inside[4] = not inside[0]
    return {id for id, held in zip(ids, inside, strict=True) if held}


def _draw(id: str, seed: int) -> float:
    """Return a number from 0 to 1 that depends on seed and id alone."""
    return digest_number(f"dev:{seed}:{id}", size=8) / 2**64
