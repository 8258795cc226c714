"""What the state of a run says to the cheap mode and to stopping by predicted gain."""

import pytest
from helpers.suites import BATCH, ROUNDS, make_suite, make_up

from atgen_ray.bench.grid import Trial, list_trials
from atgen_ray.runs.state import RunState
from atgen_ray.store.journal import Journal, open_journal
from atgen_ray.store.run_folder import RunFolder

STRATEGIES = {
    "random": {"selection": {"strategy": "random", "shortlist": {"count": 12}}},
    "good": {"selection": {"strategy": "huds", "shortlist": {"count": 12}}},
    "all": {"selection": {"strategy": "huds"}},
}


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunState]:
    suite = make_suite(tmp_path_factory.mktemp("states"), strategies=STRATEGIES, seeds=[1])
    make_up(suite, lambda trial, round: 0.5)
    journal = open_journal(suite.storage)
    trials = [trial for trial in list_trials(suite) if trial.task == "one"]
    return {trial.strategy: open_state(trial, journal) for trial in trials}


def open_state(trial: Trial, journal: Journal) -> RunState:
    config = trial.run.model_copy(update={"data": trial.run.data.model_copy(update={"test": None})})
    return RunState(config, journal, RunFolder(config.storage, config.name))


def test_the_model_looks_at_a_spread_shortlist(states: dict[str, RunState]) -> None:
    state = states["good"]
    candidates, shortlist = (ids.to_pylist() for ids in (state.candidates(1), state.shortlist(1)))
    assert len(candidates) == 60
    assert len(shortlist) == 12
    assert shortlist == sorted(set(shortlist) & set(candidates)) == state.shortlist(1).to_pylist()
    rows = sorted(int(id_.removeprefix("pool-")) for id_ in shortlist)
    assert (
        max(b - a for a, b in zip([-1, *rows], [*rows, 60], strict=True)) <= 10
    )  # no part of the arc is left out
    assert "embeddings" in state.needs(1)
    later = state.shortlist(3).to_pylist()
    assert not set(later) & {label.id for label in state.labels(2)}


def test_without_need_of_the_model_there_is_nothing_to_spare(states: dict[str, RunState]) -> None:
    assert len(states["random"].shortlist(1)) == 60
    assert "embeddings" not in states["random"].needs(1)
    assert states["all"].shortlist(1) == states["all"].candidates(1)


def test_what_was_bought_at_each_dev_score(states: dict[str, RunState]) -> None:
    state = states["good"]
    for round in range(1, ROUNDS + 1):
        split = (
            {"dev": {"rougeL": {"mean": 0.1 * round}}} if round > 1 else {}
        )  # all of the first batch was learnt
        state._folder.write_json(f"rounds/{round:03d}/metrics.json", split)
    assert state.bought(4) == [(BATCH * at, 2.0 * BATCH * at) for at in (2, 3, 4)]
    assert [row["rougeL"] for row in state.dev_scores(4)] == pytest.approx([0.2, 0.3, 0.4])
