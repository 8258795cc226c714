"""Which files hold a split: by a card, by names, and never by a way out of the dataset."""

import pytest

from atgen_ray.core.errors import UserError
from atgen_ray.data.split_files import list_splits, pick_files, pick_split

EXPORTED = [
    f"{subset}/{split}/0000.parquet" for subset in ("de", "en") for split in ("train", "test")
]
CARD = """---
license: mit
configs:
- config_name: main
  default: true
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: [main/test-*]
- config_name: other
  data_files: other/**
---
# words
"""
CARDED = [
    "README.md",
    "main/train-00000-of-00001.parquet",
    "main/test-00000-of-00001.parquet",
    "other/a/b.jsonl",
]


def card(data_files: str) -> str:
    return f"---\nconfigs:\n- config_name: default\n  data_files: {data_files}\n---\n"


def test_the_hub_s_parquet_branch_has_a_folder_for_each_subset_and_split() -> None:
    assert pick_files(EXPORTED, "test", "de", None)[0] == ["de/test/0000.parquet"]
    assert pick_files(["default/partial-train/0000.parquet"], "train", None, None)[0]
    with pytest.raises(UserError, match=r"data\.subset is null, expected one of de, en"):
        pick_files(EXPORTED, "test", None, None)
    with pytest.raises(
        UserError, match=r"data\.subset is 'dee', no subset of it; did you mean 'de'\?"
    ):
        pick_files(EXPORTED, "test", "dee", None)


def test_a_card_says_which_files_a_split_has() -> None:
    assert pick_files(CARDED, "train", None, CARD)[0] == [CARDED[1]]
    assert pick_files(CARDED, "test", "main", CARD)[0] == [CARDED[2]]
    assert pick_files(CARDED, "train", "other", CARD)[0] == [CARDED[3]]
    with pytest.raises(UserError, match=r"split is 'dev', which its README does not name"):
        pick_files(CARDED, "dev", None, CARD)


@pytest.mark.parametrize(
    "pattern",
    [
        "/etc/passwd",
        "../secret.jsonl",
        "a/../../secret.jsonl",
        "~/secret.jsonl",
        "http://169.254.169.254/latest",
        "hf://datasets/other/set/x.jsonl",
        "file:///etc/passwd",
        "zip://x.jsonl::/etc/x.zip",
        '"..\\\\secret.jsonl"',
        "{train: /etc/passwd}",
        "[{split: train, path: [ok.jsonl, /etc/passwd]}]",
        "7",
    ],
)
def test_a_card_cannot_lead_out_of_its_dataset(pattern: str) -> None:
    with pytest.raises(UserError, match="a file outside it"):
        pick_files(["ok.jsonl"], "train", None, card(pattern))
    with pytest.raises(UserError, match="a file outside it"):
        pick_files(["ok.jsonl"], "train", None, f"---\nconfigs:\n- data_dir: {'/etc'}\n---\n")


def test_names_tell_splits() -> None:
    assert pick_split(["musique_v1.0_train.jsonl", "musique_v1.0_dev.jsonl"], "validation") == [
        "musique_v1.0_dev.jsonl"
    ]
    assert pick_split(["data.json"], "train") == ["data.json"]
    assert pick_split(["test.json"], "train") == []
    assert list_splits(["train-00000-of-00002.jsonl", "a/test/1.jsonl", "other.jsonl"]) == {
        "train",
        "test",
    }


def test_a_hostile_pattern_costs_no_more_than_its_length() -> None:
    path = "/".join(["a"] * 200) + ".jsonl"
    with pytest.raises(UserError, match="no such file is there"):
        pick_files([path], "train", None, card("/".join(["'**"] + ["**"] * 200 + ["b.jsonl'"])))
