"""Selection diagnostics, the choice of examples, and how things are written."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from helpers.report_runs import make_examples

from atgen_ray.reporting.diagnostics import COMPARED, KNOWN, Prefix, Query, diagnose_rounds
from atgen_ray.reporting.examples import choose_ids
from atgen_ray.reporting.formats import (
    cut_text,
    format_change,
    format_dollars,
    format_number,
    format_part,
    format_seconds,
    name_letter,
)
from atgen_ray.reporting.plots.theme import COLOURS, SERIES


def scan(pool: pa.Table) -> Callable[..., list[pa.Table]]:
    """The pool in two parts."""
    return lambda *columns: [pool.select(columns).slice(0, 3), pool.select(columns).slice(3)]


def embed(vectors: dict[str, list[float] | None]) -> list[pa.Table]:
    tables = [{"content": f"hash of {id}", "embedding": vector} for id, vector in vectors.items()]
    return [
        pa.Table.from_pylist(
            [row], pa.schema([("content", pa.string()), ("embedding", pa.list_(pa.float32()))])
        )
        for row in tables
    ]


def test_similarity_and_near_duplicates_of_known_vectors() -> None:
    pool = make_examples(
        ["a", "b", "c", "d"], ["one", "two words", "three words here", "x"], [None, None, None, "a"]
    )
    vectors = embed({"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [0.6, 0.8], "d": [1.0, 0.001]})
    queries = [Query(1, ["a", "d"], []), Query(2, ["c", "b"], ["a", "d"])]
    pool_map, rounds = diagnose_rounds(scan(pool), queries, vectors, excluded=False)
    assert pool_map is not None
    assert pool_map.points.shape == (4, 2)
    assert rounds[1].similarities == {}
    assert rounds[1].near_duplicates["picked"] == 0.5
    assert rounds[2].similarities["picked"] == pytest.approx([0.6008, 0.001], abs=1e-3)
    assert rounds[2].near_duplicates["picked"] == 0
    assert rounds[2].lengths["picked"].tolist() == [3, 2]
    assert rounds[2].labeled.shape == rounds[2].picked.shape == (2, 2)


def test_clusters_reached_by_picks_and_labels_of_four_bundles() -> None:
    rng = np.random.default_rng(0)
    ids = [f"id-{row:02d}" for row in range(20)]
    centers = np.eye(4)
    vectors = embed(
        {id: list(centers[row % 4] + rng.normal(size=4) * 0.01) for row, id in enumerate(ids)}
    )
    queries = [Query(1, ids[0:8:4], []), Query(2, ids[1:3], ids[0:8:4])]
    _, rounds = diagnose_rounds(
        scan(make_examples(ids, ["text"] * 20)), queries, vectors, excluded=True
    )
    assert rounds[1].coverage["picked"] == 0.25  # both from one bundle
    assert rounds[2].coverage["picked"] == 0.75
    assert 0.25 <= rounds[1].coverage["random"] <= 0.5
    few = diagnose_rounds(
        scan(make_examples(ids[:4], ["text"] * 4)),
        queries[:1],
        embed({"id-00": [1.0, 0.0]}),
        excluded=True,
    )
    assert few[1][1].coverage == {}


def test_random_draw_is_as_large_as_the_batch_and_from_what_could_be_picked() -> None:
    ids = [f"id-{row:03d}" for row in range(100)]
    labeled = ids[:40]
    # Length tells where an example is from: labelled 1 word, duplicates 2, the rest 3.
    texts = ["one"] * 40 + ["one two"] * 40 + ["one two three"] * 20
    pool = make_examples(ids, texts, [None] * 40 + ["id-000"] * 40 + [None] * 20)
    _, rounds = diagnose_rounds(scan(pool), [Query(1, ids[80:90], labeled)], [], excluded=True)
    assert rounds[1].lengths["random"].tolist() == [3] * 10
    assert set(rounds[1].lengths["pool"]) == {3}
    shuffled = pool.take(np.random.default_rng(0).permutation(100))
    _, again = diagnose_rounds(scan(shuffled), [Query(1, ids[80:90], labeled)], [], excluded=False)
    assert set(again[1].lengths["random"]) == {2, 3}


def test_map_is_the_same_whatever_the_order_of_the_pool() -> None:
    rng = np.random.default_rng(0)
    ids = [f"id-{row:03d}" for row in range(50)]
    vectors = embed({id: list(rng.normal(size=8)) for id in ids})
    pool = make_examples(ids, ["text"] * 50)
    query = Query(1, ids[:5], [])
    maps = [
        diagnose_rounds(scan(pool.take(order)), [query], vectors, excluded=True)[1][1].picked
        for order in (np.arange(50), rng.permutation(50))
    ]
    assert np.array_equal(maps[0], maps[1])


@pytest.mark.parametrize("broken", [None, [float("nan"), 1.0, 0.0]])
def test_an_example_that_could_not_be_embedded_is_left_off_the_map(
    broken: list[float] | None,
) -> None:
    pool = make_examples(["a", "b", "c", "d"], ["text"] * 4)
    vectors = embed({"a": [1.0, 0.0, 0.0], "b": [0.0, 1.0, 0.0], "c": [0.0, 0.0, 1.0], "d": broken})
    pool_map, rounds = diagnose_rounds(
        scan(pool), [Query(1, ["a", "d"], ["b"])], vectors, excluded=True
    )
    assert pool_map is not None
    assert len(pool_map.points) == 3
    assert len(rounds[1].picked) == 1
    assert len(rounds[1].lengths["picked"]) == 2


def test_examples_are_the_best_the_typical_and_the_worst() -> None:
    before = {f"id-{row}": 0.5 for row in range(9)}
    after = {f"id-{row}": 0.1 + 0.1 * row for row in range(9)}
    chosen = choose_ids(before, after)
    assert chosen[:2] == [("id-8", "Largest gain"), ("id-7", "Largest gain")]
    assert chosen[2][0] == "id-4"
    assert {id for id, kind in chosen if kind == "Largest loss"} == {"id-0", "id-1"}
    assert len({id for id, _ in chosen}) == 6


def test_no_example_stands_under_a_loss_that_did_not_lose() -> None:
    chosen = dict(
        choose_ids(
            {"a": 0.0, "b": 0.0, "c": 0.5, "d": 0.1, "e": 0.1},
            {"a": 0.9, "b": 0.8, "c": 0.1, "d": 0.2, "e": 0.15},
        )
    )
    assert chosen["c"] == "Largest loss"
    assert chosen["e"] == "Smallest gain"
    assert choose_ids({}, {}) == []
    assert choose_ids({}, {"a": 1.0}) == [("a", "Best score")]


def test_numbers_read_well() -> None:
    assert [format_seconds(value) for value in (0, 0.42, 9.96, 59.6, 61, 3599.9, 12000, 86400)] == [
        "0 s", "0.4 s", "10 s", "1 min", "1 min 1 s", "1 h", "3 h 20 min", "24 h",
    ]  # fmt: skip
    assert [format_dollars(value) for value in (0, 0.0031, 2.4, 1234.5)] == [
        "$0.00",
        "$0.0031",
        "$2.40",
        "$1,234.50",
    ]
    assert [format_change(value) for value in (0.1, -0.1, 0.0, -0.0001, float("nan"), None)] == [
        "+0.100", "−0.100", "0.000", "0.000", "–", "–",
    ]  # fmt: skip
    assert [format_number(value) for value in (0.1234, float("inf"), None)] == ["0.123", "–", "–"]
    assert [format_part(value) for value in (3.0, -0.5, 12.3456, 1e-5, 123456.7)] == [
        "3",
        "−0.500",
        "12.346",
        "1e−05",
        "1.23e+05",
    ]
    assert [name_letter(index) for index in (0, 25, 26, 701, 702)] == ["A", "Z", "AA", "ZZ", "AAA"]
    assert cut_text("one two three", 9) == "one two…"
    assert cut_text("x" * 50, 10) == "x" * 9 + "…"


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_can_be_read_on_light_and_dark(theme: int) -> None:
    """WCAG 2.2, 1.4.3: at least 4.5:1 for text, and labels in plots have the colour of their
    line.
    """

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for name in ("ink", "muted", *SERIES):
        for ground in ("page", "panel"):
            pair = sorted([luminance(COLOURS[name][theme]), luminance(COLOURS[ground][theme])])
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (name, ground)


def test_a_long_run_is_compared_by_a_part_of_its_picks_and_labels() -> None:
    """Memory and time of a report do not grow with all that was ever labelled."""
    count = 3 * KNOWN
    ids = [f"{at:024x}" for at in range(count)]
    pool = pa.table(
        {
            "id": ids,
            "text": ["a b"] * count,
            "content": ids,
            "duplicate_of": pa.nulls(count, "string"),
        }
    )
    shared = ids[: 2 * KNOWN]
    labeled = Prefix(shared, KNOWN + 10)
    picked = ids[2 * KNOWN : 2 * KNOWN + COMPARED + 1]
    rows = [[float(at % 7), 1.0, 2.0] for at in range(count)]
    vectors = pa.table({"content": ids, "embedding": rows})
    few = Query(2, ids[-10:], Prefix(shared, 10))
    _, rounds = diagnose_rounds(
        scan(pool), [Query(1, picked, labeled), few], [vectors], excluded=False
    )
    assert len(rounds[1].picked) == COMPARED // 2 + 1
    assert len(rounds[1].labeled) == (KNOWN + 10) // 2
    assert rounds[1].thinned
    assert not rounds[2].thinned
    assert len(rounds[2].labeled) == 10
    assert list(labeled) == shared[: KNOWN + 10] == labeled[:]
    assert labeled[-1] == shared[KNOWN + 9]
