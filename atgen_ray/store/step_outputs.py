"""Outputs of a run's steps: made aside, named by the journal, and only then moved to their names.

- A controller makes the outputs of a step in a place of its own, `.steps/<attempt>/<round>-<step>`,
  to which no other controller writes.
- The event of the step names the place and every file with its size and digest. It is entered under
  the lease. So of two controllers one has its output named, and what the journal does not name does
  not exist: nothing else ever gets the name that users and replicas read.
- Then the files are moved to their names. Whoever moves them moves the same content, so that a
  controller that is late does no harm, and the next one finishes what a dead one did not.

A step that was made, but whose event could not be entered, is not lost: the next controller enters
it if the run still stands where it stood (`basis`).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import uuid4

from atgen_ray.store.events import Event
from atgen_ray.store.leases import Lease
from atgen_ray.store.run_folder import RunFolder

STEPS = ".steps"
PLACE = "place"  # keys of the payload of an event
FILES = "files"
FOLDERS = "folders"

Payload = dict[str, Any]


def name_attempt(lease: Lease) -> str:
    """Return a name that no other controller of the run has had, even one whose lease had the same
    epoch in a journal that was lost since.
    """
    return f"{lease.epoch}-{uuid4().hex[:8]}"


@dataclass(frozen=True)
class SealedStep:
    """A step whose outputs are whole: the payload of its event, and how many seconds it took."""

    payload: Payload
    seconds: float


class StepOutputs:
    """The outputs that one controller makes, and those that earlier ones left behind."""

    def __init__(self, folder: RunFolder, lease: Lease) -> None:
        self._folder = folder
        self._lease = lease
        self._attempt = name_attempt(lease)
        self._steps = folder.below(STEPS)
        self._made: dict[str, list[str]] = {}  # places of earlier attempts, by their last part

    def recover(self, committed: Iterable[Event]) -> None:
        """Move what the journal names to its name, and remove what it will never name. Steps that
        were made and not committed are kept, for `find`.
        """
        self._steps.sweep()  # what was about to become a receipt
        named = defaultdict(list)
        done = set[str]()
        for event in committed:
            done.add(_name(event.round, str(event.step)))
            if PLACE in event.payload:
                named[event.payload[PLACE]].append(event)
        for attempt in self._steps.list():
            kept = False
            places = self._steps.list(attempt)
            for place in places:
                name = place.rpartition("/")[2]
                if place in named:
                    self.publish(named[place])
                elif f"{place}.json" in places and name not in done:
                    self._made.setdefault(name, []).append(place)
                    kept = True
            if not kept:
                self._steps.remove(attempt)

    def find(self, round: int, step: str, basis: str) -> SealedStep | None:
        """Return a step that an earlier controller made whole on the same `basis` and could not
        commit.
        """
        for place in self._made.pop(_name(round, step), []):
            receipt = self._steps.read_json(f"{place}.json")
            sealed = SealedStep(receipt["payload"], receipt["seconds"])
            if receipt["basis"] == basis and self._is_whole(sealed.payload):
                return sealed
            self._discard(place)
        return None

    def open(self, round: int, step: str) -> RunFolder:
        """Return the empty folder for the outputs of a step, with the paths of the run's folder."""
        place = self._place(round, step)
        self._discard(place)  # of a first try by this very controller
        return self._folder.below(STEPS, *place.split("/"))

    def seal(
        self,
        round: int,
        step: str,
        made: RunFolder,
        basis: str,
        payload: Payload,
        seconds: float,
    ) -> SealedStep:
        """Return the step to commit, whose event has `payload` and the files of `made`, which are
        all there now.
        """
        sealed = SealedStep(payload | self.describe(round, step, made, payload), seconds)
        self._steps.write_json(
            f"{self._place(round, step)}.json", {"basis": basis, **asdict(sealed)}
        )
        return sealed

    def describe(
        self, round: int, step: str, made: RunFolder, payload: Mapping[str, Any] | None = None
    ) -> Payload:
        """Return what an event says of the files of `made`, besides those that `payload` names."""
        files = dict((payload or {}).get(FILES, {}))
        files |= {rel: asdict(file) for rel, file in made.written.items()}
        described = {PLACE: self._place(round, step), FILES: files}
        return described | ({FOLDERS: sorted(made.folders)} if made.folders else {})

    def publish(self, events: Iterable[Event]) -> None:
        """Move the files that committed `events` name, of one place, to their names."""
        places = set[str]()
        for event in events:
            if PLACE not in event.payload:
                continue
            places.add(event.payload[PLACE])
            made = self._folder.below(STEPS, *event.payload[PLACE].split("/"))
            for rel in list_pieces(event.payload):
                self._folder.take_in(made, rel)
        for place in places:
            self._discard(place)

    def name_work(self, rel: str) -> str:
        """Return this controller's name for the folder `rel` of unfinished work."""
        return f"{rel}-{self._attempt}"

    def claim_work(self, rel: str) -> None:
        """Take over the unfinished work that an earlier controller has at `rel`: its workers may
        be alive, and must not write to what this controller's workers read.
        """
        ours = self.name_work(rel)
        found = [path for path in self._list_work(rel) if path != ours]
        # In this order: the list has nothing of a controller that came later.
        self._lease.renew()
        for path in reversed(found):
            self._folder.move(path, ours)

    def remove_work(self, rel: str) -> None:
        """Remove the folder `rel` of unfinished work, of whichever controllers of the run."""
        for path in self._list_work(rel):
            self._folder.remove(path)

    def _list_work(self, rel: str) -> list[str]:
        parent = rel.rpartition("/")[0]
        return [path for path in self._folder.list(parent) if _is_work(path, rel)]

    def _is_whole(self, payload: Payload) -> bool:
        """Return whether all files are there in their sizes; their receipt came after them."""
        place = self._folder.below(STEPS, *payload[PLACE].split("/"))
        sizes = self._folder.list_sizes() | place.list_sizes()
        return all(sizes.get(rel) == file["size"] for rel, file in payload[FILES].items())

    def _discard(self, place: str) -> None:
        self._steps.remove(f"{place}.json")
        self._steps.remove(place)

    def _place(self, round: int, step: str) -> str:
        return f"{self._attempt}/{_name(round, step)}"


def describe_shared(folder: RunFolder, rel: str) -> Payload:
    """Return what an event says of the files in `rel`, which were not made aside; what is in them
    is not known.
    """
    files = {
        path: {"size": size, "digest": None}
        for path, size in folder.list_sizes().items()
        if path.startswith(f"{rel}/")
    }
    return {FILES: files}


def list_pieces(payload: Mapping[str, Any]) -> list[str]:
    """Return the folders, and the files outside them, that an event names."""
    folders = list(payload.get(FOLDERS, ()))
    inside = tuple(f"{folder}/" for folder in folders)
    files = [rel for rel in payload[FILES] if not (inside and rel.startswith(inside))]
    return [*folders, *files]


def drop_superseded(events: Iterable[Event]) -> list[Event]:
    """Return events of steps, each with those files alone that no later one has made anew, as the
    growth of a pool does.
    """
    left: list[Event] = []
    later = set[str]()
    for event in reversed([*events]):
        files = event.payload.get(FILES)
        if files is not None:
            kept = {rel: file for rel, file in files.items() if rel not in later}
            later |= files.keys()
            event = replace(event, payload=event.payload | {FILES: kept})
        left.append(event)
    return left[::-1]


def find_output(folder: RunFolder, event: Event, rel: str) -> RunFolder | None:
    """Return the folder that has the output `rel` of a committed step: the run's, or the one where
    it was made, if its controller died or is about to move it. None: it is gone.
    """
    folder.refresh(rel)
    if folder.exists(rel):
        return folder
    if PLACE in event.payload:
        made = folder.below(STEPS, *event.payload[PLACE].split("/"))
        if made.exists(rel):
            return made
    return folder if folder.exists(rel) else None


def _is_work(path: str, rel: str) -> bool:
    """Return whether `path` is the folder of unfinished work that some controller calls `rel`."""
    return path == rel or (path.startswith(f"{rel}-") and "." not in path)


def _name(round: int | None, step: str) -> str:
    return f"{round or 0:03d}-{step}"
