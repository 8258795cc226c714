"""Outputs between their making and their names, of controllers that die on the way."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from atgen_ray.store.events import Event
from atgen_ray.store.journal import Journal
from atgen_ray.store.leases import Lease
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.step_outputs import SealedStep, StepOutputs, find_output

ADAPTER = "rounds/001/adapter"


class Site:
    """A run, and controllers that take it one after the other."""

    def __init__(self, storage: str, database: Path) -> None:
        self.folder = RunFolder(storage, "demo")
        self.journal = Journal(f"sqlite:///{database}")
        self.journal.create_run("demo", {}, "")

    def start(self) -> tuple[Lease, StepOutputs]:
        lease = self.journal.acquire("demo", ProcessIdentity(uuid4().hex), 60, takeover=True)
        outputs = StepOutputs(self.folder, lease)
        outputs.recover(self.journal.steps("demo"))
        return lease, outputs

    def seal(self, outputs: StepOutputs, basis: str, text: str = "weights") -> SealedStep:
        made = outputs.open(1, "training")
        with made.publish(ADAPTER) as output:
            (output / "weights").write_text(text)
        made.write_json("rounds/001/training.json", {})
        return outputs.seal(1, "training", made, basis, {"rows": 1}, 7.5)

    def commit(self, lease: Lease, sealed: SealedStep) -> Event:
        return self.journal.append(lease, "step", 1, "training", sealed.payload, sealed.seconds)

    def list_hidden(self) -> list[str]:
        return [rel for rel in self.folder.list_sizes() if rel.startswith(".steps/")]


@pytest.fixture(params=["local", "memory"])
def site(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    storage = str(tmp_path / "runs") if request.param == "local" else f"memory://{uuid4().hex}"
    site = Site(storage, tmp_path / "atgen.db")
    yield site
    site.journal.close()


def test_what_is_not_recorded_has_no_name(site: Site) -> None:
    lease, outputs = site.start()
    sealed = site.seal(outputs, "basis")
    assert not site.folder.exists(ADAPTER)
    assert set(sealed.payload["files"]) == {f"{ADAPTER}/weights", "rounds/001/training.json"}
    event = site.commit(lease, sealed)
    found = find_output(site.folder, event, ADAPTER)
    assert found is not None
    assert (found.refer(ADAPTER).local() / "weights").read_text() == "weights"
    outputs.publish([event])
    assert find_output(site.folder, event, ADAPTER) is site.folder
    assert (site.folder.local(ADAPTER) / "weights").read_text() == "weights"
    assert site.list_hidden() == []
    outputs.publish([event])  # whoever is late
    assert (site.folder.local(ADAPTER) / "weights").read_text() == "weights"


def test_what_is_recorded_gets_its_name_from_the_next_controller(site: Site) -> None:
    lease, outputs = site.start()
    event = site.commit(lease, site.seal(outputs, "basis"))
    site.start()
    assert site.folder.exists(ADAPTER)
    assert site.list_hidden() == []
    outputs.publish([event])
    assert (site.folder.local(ADAPTER) / "weights").read_text() == "weights"


def test_what_an_older_time_left_at_the_name_is_replaced(site: Site) -> None:
    with site.folder.publish(ADAPTER) as output:
        (output / "weights").write_text("old")
        (output / "more").write_text("old")
    lease, outputs = site.start()
    outputs.publish([site.commit(lease, site.seal(outputs, "basis"))])
    assert [path.name for path in site.folder.local(ADAPTER).iterdir()] == ["weights"]


def test_a_step_that_was_made_is_entered_if_the_run_stands_where_it_stood(site: Site) -> None:
    _, outputs = site.start()
    sealed = site.seal(outputs, "basis")
    assert site.start()[1].find(1, "training", "other settings") is None
    assert site.list_hidden() == []  # nobody will ever want it
    _, outputs = site.start()
    sealed = site.seal(outputs, "basis")
    lease, outputs = site.start()
    assert outputs.find(1, "training", "basis") == sealed
    outputs.publish([site.commit(lease, sealed)])
    assert (site.folder.local(ADAPTER) / "weights").read_text() == "weights"


def test_a_step_of_which_a_file_is_gone_is_made_again(site: Site) -> None:
    _, outputs = site.start()
    place = site.seal(outputs, "basis").payload["place"]
    site.folder.below(".steps", *place.split("/")).remove("rounds/001/training.json")
    assert site.start()[1].find(1, "training", "basis") is None


def test_half_a_step_is_removed(site: Site) -> None:
    _, outputs = site.start()
    outputs.open(1, "training").write_json("rounds/001/training.json", {})
    assert site.list_hidden()
    site.start()
    assert site.list_hidden() == []


def test_unfinished_work_goes_to_the_next_controller(site: Site) -> None:
    work = "rounds/001/training"
    _, first = site.start()
    site.folder.write_text(f"{first.name_work(work)}/checkpoint-1/x", "first")
    _, second = site.start()
    second.claim_work(work)
    assert site.folder.read_text(f"{second.name_work(work)}/checkpoint-1/x") == "first"
    assert f"{first.name_work(work)}/checkpoint-1/x" not in site.folder.list_sizes()


def test_unfinished_work_of_all_controllers_is_removed(site: Site) -> None:
    work = "rounds/001/training"
    for _ in range(2):
        _, outputs = site.start()
        site.folder.write_text(f"{outputs.name_work(work)}/checkpoint-1/x", "left")
    site.folder.write_text(f"{work}.json", "{}")
    outputs.remove_work(work)
    assert [rel for rel in site.folder.list_sizes() if rel.startswith(work)] == [f"{work}.json"]


def test_half_a_receipt_is_removed(site: Site) -> None:
    if not site.folder.is_local:
        return  # a single object appears whole
    site.start()
    half = Path(site.folder.root, ".steps", ".staging", "half")
    half.parent.mkdir(parents=True)
    half.write_text("{")
    site.start()
    assert not half.exists()
