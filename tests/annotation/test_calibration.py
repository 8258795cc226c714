"""Annotators against people: accuracy with its interval, and the threshold for a wanted quality."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers.annotation_desk import Desk, configure, make_texts
from helpers.command_line import call
from helpers.fakes.provider import FakeProvider
from scipy.stats import binom

from atgen_ray.annotation.calibration import Opinion, calibrate, list_opinions
from atgen_ray.annotation.router import is_drawn
from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.core.records import Annotation


def make_opinions(count: int, seed: int) -> tuple[list[Opinion], dict[str, str]]:
    """Labels that are right with the probability of their confidence, and those of people."""
    rng = np.random.default_rng(seed)
    confidences = rng.choice([0.6, 0.8, 1.0], count)
    right = rng.random(count) < np.where(confidences == 1.0, 0.99, confidences)
    opinions = [
        Opinion(f"e{place}", "m", "yes" if good else "no", float(confidence))
        for place, (good, confidence) in enumerate(zip(right, confidences, strict=True))
    ]
    return opinions, {opinion.example_id: "Yes " for opinion in opinions}


def test_accuracy_has_a_wilson_interval() -> None:
    opinions = [Opinion(f"e{n}", "m", "yes" if n < 8 else "no", None) for n in range(10)]
    people = {f"e{n}": "yes" for n in range(10)}
    (found,) = calibrate([*opinions, Opinion("other", "m", "yes", None)], people, 0.9)
    assert (found.labels, found.compared, found.right, found.accuracy) == (11, 10, 8, 0.8)
    # Wilson, 1927, by hand: (8 + z²/2) / (10 + z²) -+ z / (10 + z²) * sqrt(8 * 2 / 10 + z² / 4)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert found.threshold is None, "an annotator without votes has no confidence"


def test_the_threshold_is_the_lowest_with_the_wanted_quality() -> None:
    opinions, people = make_opinions(1500, 0)
    assert [calibrate(opinions, people, quality)[0].threshold for quality in (0.95, 0.55)] == [
        1.0,
        0.6,
    ]
    (found,) = calibrate(opinions, people, 0.95)
    assert found.kept == np.mean([opinion.confidence == 1.0 for opinion in opinions])
    assert calibrate(opinions[:10], people, 0.95)[0].threshold is None, "ten labels prove nothing"


def test_a_threshold_that_does_not_hold_is_chosen_as_seldom_as_promised() -> None:
    """Labels with a confidence of 1.0 are right in 99 of 100 cases: 0.99 is never exceeded."""
    chosen = sum(
        calibrate(*make_opinions(200, seed), 0.99)[0].threshold is not None for seed in range(200)
    )
    assert chosen <= binom.ppf(0.999, 200, 0.05)


def test_free_texts_agree_by_their_words() -> None:
    opinions = [Opinion("a", "m", "the red cat", None)]
    people = {"a": "a red cat"}
    assert calibrate(opinions, people, 0.9)[0].right == 0
    assert calibrate(opinions, people, 0.9, match=0.6)[0].right == 1


def test_every_stage_has_its_opinion() -> None:
    first = {"annotator": "openai/a", "text": "x", "confidence": 0.4}
    second = {"annotator": "openai/b", "text": "y", "confidence": None, "first": first}
    label = Annotation("e", "z", "human/ann", 0.0, {"first": second})
    assert [(each.annotator, each.text) for each in list_opinions(label)] == [
        ("openai/b", "y"),
        ("openai/a", "x"),
    ]


def test_the_command_compares_with_a_file_or_with_the_share_that_people_labelled(
    provider: FakeProvider, tmp_path: Path
) -> None:
    texts = make_texts(60)
    tree = dump_config(configure(provider, "openai", "sync", votes=2, temperature=0.7))
    when = {"share": 0.5}
    tree["annotator"] = {
        "type": "router",
        "first": tree["annotator"],
        "then": "human",
        "when": when,
    }
    desk = Desk(provider, tmp_path, parse_config(tree), texts)
    site = desk.site()
    labels = []
    for place, id_ in enumerate(texts):
        told = {"annotator": "openai/fake", "text": "good", "confidence": 1.0}
        label = Annotation(id_, "good", "openai/fake", 0.0, {"confidence": 1.0})
        if is_drawn(desk.config.seed, "annotator.then", label, 0.5):
            said = "bad" if place < 10 else "good"
            label = Annotation(id_, said, "human/ann", 0.0, {"first": told})
        labels.append(label)
    desk.journal.record_annotations(site.lease, 1, labels)
    table = pa.table({"id": [*texts], "text": [*texts.values()]})
    site.folder.write_table("pool.parquet", table)
    drawn = [label for label in labels if label.annotator == "human/ann"]
    wrong = sum(label.text == "bad" for label in drawn)

    done = call("runs", "calibrate", "paid", "--storage", str(tmp_path), "--json")
    (found,) = json.loads(done.out)["annotators"]
    assert (found["annotator"], found["labels"]) == ("openai/fake", 60)
    assert (found["compared"], found["right"]) == (len(drawn), len(drawn) - wrong)
    shown = call("runs", "calibrate", "paid", "--storage", str(tmp_path))
    assert "a random share of 0.5" in shown.out
    assert f"{len(drawn)}" in shown.out

    file = tmp_path / "people.jsonl"
    rows = [{"input": texts["e000"], "text": "good"}, {"id": "e001", "text": "bad"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = call(
        "runs", "calibrate", "paid", "--storage", str(tmp_path), "--labels", str(file), "--json"
    )
    (found,) = json.loads(done.out)["annotators"]
    assert (found["compared"], found["right"]) == (2, 1)

    wrong_share = call("runs", "calibrate", "paid", "--storage", str(tmp_path), "--quality", "95")
    assert wrong_share.status == 2
    assert "--quality is 95, expected a share" in wrong_share.err
