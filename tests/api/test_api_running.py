"""`run` from Python: a run from a dictionary that is killed, given again, and pays for nothing
twice.
"""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.forks import run_command
from helpers.projects import Project

import atgen_ray
from atgen_ray.runs.driver import stop_on_signal

# Gives the call of the test and dies once the labels of the first round are bought.
KILLED = """
import json, os, signal, sys
import atgen_ray

def die(event):
    if (event.kind, event.step) == ("step", "annotation"):
        os.kill(os.getpid(), signal.SIGKILL)

atgen_ray.run(json.loads(sys.argv[1]), on_event=die, progress=False)
"""


def configure(project: Project, **sections: Any) -> dict[str, Any]:
    """The project's configuration with absolute paths: the Ray of these tests works elsewhere."""
    tree: dict[str, Any] = yaml.safe_load((project.folder / "sort.yaml").read_text())
    tree["data"] |= {name: project.folder / f"{name}.jsonl" for name in ("pool", "test")}
    return tree | {"name": "sort", "storage": project.folder / "atgen-runs"} | sections


@pytest.mark.slow
def test_a_run_from_a_dictionary_that_was_killed_pays_for_nothing_twice(
    make_project: Callable[[], Project], finished: Project, ray_session: None
) -> None:
    import json

    tree = configure(make_project(), stopping={"rounds": 1})
    done = run_command("-c", KILLED, json.dumps(tree, default=str), timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    before = atgen_ray.open_run("sort", storage=tree["storage"])
    bought = before.labels()
    assert len(bought) == 5

    events: list[atgen_ray.Event] = []
    run = atgen_ray.run(tree, on_event=events.append, progress=False)
    assert (run.status, run.message) == ("finished", "all rounds done")
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    steps = [event.step for event in events if event.kind == "step"]
    assert steps.count("annotation") == 1
    assert run.labels().equals(bought)
    assert run.show()["dollars"] == 2.5
    undisturbed = [row for row in finished.read("sort", "labeled.jsonl") if row["round"] == 1]
    assert bought["id"].tolist() == [row["id"] for row in undisturbed]
    assert bought["text"].tolist() == [row["text"] for row in undisturbed]
    assert run.curve()["labels"].tolist() == [0, 5]
    assert (run.adapter() / "adapter_config.json").is_file()

    # A finished run is returned at once; another configuration under its name is a mistake.
    assert atgen_ray.run(tree, on_event=events.append, progress=False).status == "finished"
    assert events[-1].kind == "finished"
    with pytest.raises(atgen_ray.UserError, match="run 'sort' exists with seed = 42, now it is 7"):
        atgen_ray.run(tree, overrides={"seed": 7}, progress=False)


def test_a_checked_configuration_is_taken_as_it_is(
    make_project: Callable[[], Project], tmp_path: Path
) -> None:
    tree = configure(make_project(), database_url=f"sqlite:///{tmp_path / 'own.db'}")
    config = atgen_ray.load_config(tree, overrides=["stopping.rounds=3"], name="other")
    again = atgen_ray.load_config(config, overrides={"selection.count": 4})
    assert isinstance(config, atgen_ray.RunConfig)
    assert (config.name, config.stopping.rounds, again.selection.count) == ("other", 3, 4)
    assert again.model_copy(update={"selection": config.selection}) == config
    assert again.database_url is not None
    assert again.database_url.get_secret_value() == tree["database_url"]
    assert tree["stopping"] == {"rounds": 2}  # what was given is left as it was


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    """Python lets the main thread alone set handlers: elsewhere a run has none, and works."""
    seen: list[bool] = []

    def work() -> None:
        with stop_on_signal() as stop:
            seen.append(stop.is_set())

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_failure_that_is_no_mistake_has_the_name_of_its_run() -> None:
    error = atgen_ray.RunFailedError("sort", "the workers of training died")
    assert (error.run, str(error)) == ("sort", "the workers of training died")
    assert not isinstance(error, atgen_ray.UserError)
