"""A cluster that is started by hand, by the lines of docs/clusters.md: each line as written, in token
mode, on machines with an empty HOME.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from helpers.machines import PACKAGE, USER, Machine, can_make_machines, run_machines
from helpers.pages import block_after
from helpers.projects import Project, make_project_in

PAGE = (Path(__file__).parents[2] / "docs/clusters.md").read_text()
# What the page says is there: the package, here with two CPUs a node whatever this machine has.
INSTALLED = {"PYTHONPATH": PACKAGE, "HF_HUB_OFFLINE": "1"}
CPUS = " --num-cpus=2"

pytestmark = pytest.mark.skipif(
    not can_make_machines(), reason="machines need the rights of root, and `unshare` and `ip`"
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """What the caller has: a small task, its file called as on the page."""
    folder = tmp_path / "project"
    folder.mkdir()
    task = yaml.safe_load(
        (make_project_in(folder, "/shared/tiny").folder / "sort.yaml").read_text()
    )
    task["selection"] = {"strategy": "random", "count": 2}
    task["stopping"] = {"rounds": 1}
    (folder / "sort.yaml").unlink()
    (folder / "my-task.yaml").write_text(yaml.safe_dump(task))
    return Project(folder)


@pytest.fixture
def machines(tiny_model: str, project: Project, tmp_path: Path) -> Iterator[dict[str, Machine]]:
    """The head, a worker and the caller; the first two share a folder."""
    shared = tmp_path / "shared"
    shutil.copytree(tiny_model, shared / "tiny")
    for path in (shared, *shared.rglob("*")):
        shutil.chown(path, USER, 100)
    addresses = {"head": "10.0.0.10", "worker": "10.0.0.11", "caller": "10.0.0.12"}
    mounts = {"head": {shared: "/shared"}, "worker": {shared: "/shared"}}
    with run_machines(
        addresses, mounts | {"caller": {project.folder: "/home/ray/project"}}
    ) as running:
        yield running


def test_each_line_of_the_page_works_as_written(machines: dict[str, Machine]) -> None:
    """First nobody without the token gets in; then a job runs to its end, and the second way of
    submitting it finds it finished.
    """
    token, start_head = block_after(PAGE, "On the head")
    _, start_worker = block_after(PAGE, "On every other machine")
    _, submit, again = block_after(PAGE, "From anywhere")
    token = token.replace("=TOKEN", "=" + "0123456789abcdef" * 4)

    run(machines["head"], f"{token} && {start_head}{CPUS}")
    run(machines["worker"], f"{token} && {start_worker}{CPUS}".replace("HEAD", "head"))
    submit, again = (f"cd project && {each}".replace("HEAD", "head") for each in (submit, again))
    refused = machines["caller"].run(again, INSTALLED)
    assert refused.returncode == 2, refused.stdout
    assert "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the token" in refused.stdout
    assert "all rounds done" in run(machines["caller"], f"{token} && {submit}")
    assert "all rounds done" in run(machines["caller"], f"{token} && {again}")


def run(machine: Machine, line: str) -> str:
    """A line that succeeds; what it prints."""
    done = machine.run(line, INSTALLED)
    assert done.returncode == 0, done.stdout
    return done.stdout
