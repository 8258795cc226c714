"""Random numbers that depend on names, not on what ran before."""

import hashlib


def mix_seed(*parts: object) -> int:
    """A seed of 63 bits from `parts`, the same on every machine."""
    digest = hashlib.blake2b(":".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def hash_text(text: str) -> str:
    """The content hash of a text: 128 bits in hexadecimal."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
