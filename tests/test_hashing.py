"""Hashes are part of what runs store: their values never change."""

from atgen_ray.core.hashing import digest, digest_number, hash_text, mix_seed
from atgen_ray.data.split import _hash_id
from atgen_ray.selection.kernels.draws import derive_seed


def test_the_content_hash_of_a_text_stays_the_key_of_shared_rows() -> None:
    assert hash_text("Zähle bis fünf.") == "972cc2d0c804ec457e5fb4a16647732f"


def test_the_id_of_an_example_stays_what_stored_labels_refer_to() -> None:
    assert _hash_id("train", "abc", 3) == "cf3e7da8435e30bdd9519f70"


def test_seeds_stay_so_that_a_resumed_run_draws_as_before() -> None:
    assert mix_seed(7, "shots", 2) == 7202064439652667161
    assert derive_seed("random", 7, 2) == 556905206


def test_a_stored_token_is_found_by_the_same_sha_256() -> None:
    stored = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
    assert digest("secret", size=32, algorithm="sha256") == stored


def test_parts_are_hashed_as_if_they_were_one_text() -> None:
    assert digest("a.css", b"\0", "body{}", size=8, algorithm="sha256") == "e27e59a646414392"
    assert digest("dev:", b"1:x", size=8) == digest("dev:1:x", size=8)
    assert digest_number("x", size=8) == int(digest("x", size=8), 16)
