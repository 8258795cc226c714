"""Our own endpoint as the annotator of a run: the official client on both sides of the wire."""

import json
from collections.abc import Callable
from pathlib import Path

from helpers.projects import Project
from helpers.services import Service


def test_the_service_labels_for_a_run_and_its_token_is_found_nowhere(
    service: Service, make_project: Callable[[], Project]
) -> None:
    project = make_project()
    annotator = {
        "type": "openai",
        "model": "tiny:sort-1",
        "base_url": f"{service.url}/v1",
        "mode": "sync",
        "price": {"input": 1.0, "output": 1.0},
        "max_output_tokens": 8,
        "temperature": 0.0,
    }
    command = [
        "run",
        "sort.yaml",
        "selection.strategy=random",
        "evaluation.zero_shot=false",
        "data.test=null",
    ]
    command += [
        "stopping.rounds=1",
        "stopping.dollars=1",
        f"annotator={json.dumps(annotator)}",
        "--name",
    ]
    refused = project.run(*command, "refused", OPENAI_API_KEY=service.annotator)
    assert refused.returncode == 2
    assert "does not accept the key" in refused.stderr
    done = project.run(*command, "own", OPENAI_API_KEY=service.admin)
    assert done.returncode == 3  # with weights that are random no answer ever ends
    assert "were cut off: raise the annotator's max_output_tokens" in done.stdout
    shown = json.loads(project.run("runs", "show", "own", "--json").stdout)
    assert shown["annotation"]["requests"] == {"answered": 5}  # and none is asked once more
    assert shown["annotation"]["paid"] > 5 * 8 / 1e6  # by the usage that the endpoint reports
    assert shown["dead_letters"] == []
    secret = service.admin.rpartition("_")[2].encode()
    for path in Path(project.folder).rglob("*"):
        assert not path.is_file() or secret not in path.read_bytes(), path
