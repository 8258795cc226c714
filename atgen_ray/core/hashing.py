"""Hashes of names and contents, the same in every process and on every machine.

`digest` gives names to files, requests, cache entries and rows; `mix_seed` gives seeds. Both are
part of the stored format: other values would make a run lose sight of its own files, so
`tests/test_hashing.py` pins some of them.
"""

import hashlib
from typing import Literal

SEED_BYTES = 8


def digest(
    *parts: str | bytes, size: int, algorithm: Literal["blake2b", "sha256"] = "blake2b"
) -> str:
    """Return the hash of `parts`, joined without separators, as 2 x `size` hexadecimal digits.

    Text is hashed as UTF-8. BLAKE2b has its own variant for every size up to 64 bytes; SHA-256 is
    cut to `size`, at most 32.
    """
    content = _join(parts)
    if algorithm == "sha256":
        return hashlib.sha256(content).digest()[:size].hex()
    return hashlib.blake2b(content, digest_size=size).hexdigest()


def digest_number(*parts: str | bytes, size: int) -> int:
    """Return the BLAKE2b hash of `parts` as an unsigned number of `size` bytes, big-endian."""
    return int.from_bytes(hashlib.blake2b(_join(parts), digest_size=size).digest(), "big")


def mix_seed(*parts: object) -> int:
    """Return a seed of 63 bits that depends on `parts` alone, such as `mix_seed(7, "shots", 2)`."""
    return digest_number(":".join(map(str, parts)), size=SEED_BYTES) >> 1


def hash_text(text: str) -> str:
    """Return the content hash of a text: 128 bits in hexadecimal."""
    return digest(text, size=16)


def _join(parts: tuple[str | bytes, ...]) -> bytes:
    return b"".join(part.encode() if isinstance(part, str) else part for part in parts)
