"""Files of labelled rows: what an active job had labelled, in the layout of supervised jobs.

They are written when they are read, from the labels that the run has then. So a person or an
example that is deleted is in none of them, and they take no room.
"""

from collections.abc import Callable, Iterator

from atgen_ray.core.strict_json import encode_json
from atgen_ray.runs.messages import write_messages
from atgen_ray.runs.queries import read_labels
from atgen_ray.store.api_files import ApiFile
from atgen_ray.store.exports import note_export
from atgen_ray.store.journal import Journal
from atgen_ray.store.tuning_jobs import TuningJob, TuningJobs

RESULTS = "fine-tune-results"
_PREFIX = "file-labels-"
_JOB = "ftjob-"


def name_results(job: TuningJob) -> str:
    """Return the id of a job's file."""
    return _PREFIX + job.id.removeprefix(_JOB)


class LabelFiles:
    """The labelled rows of the active jobs of one storage, each with the names of whoever asks:
    None for everybody's.
    """

    def __init__(self, journal: Journal, storage: str) -> None:
        self._journal = journal
        self._storage = storage
        self._jobs = TuningJobs(journal)

    def find_job(self, id: str, by: str | None) -> TuningJob | None:
        """Return the job whose file `id` is, once it has succeeded; None for any other file."""
        if not id.startswith(_PREFIX):
            return None
        job = self._jobs.find(_JOB + id.removeprefix(_PREFIX), by)
        return job if job is not None and self._has_file(job) else None

    def describe(self, job: TuningJob) -> ApiFile:
        """Return the file of a job, which has succeeded."""
        rows = self._write(job)
        size = sum(map(len, rows))
        ended = self._journal.run(job.run).updated
        name = f"{job.run}-labels.jsonl"
        return ApiFile(name_results(job), job.by, "", name, RESULTS, size, len(rows), ended)

    def read(self, job: TuningJob, by: str) -> Iterator[bytes]:
        """Return the lines of a job's file, which `by` takes away."""
        rows = self._write(job)
        note_export(self._journal, job.run, "labels", "openai", len(rows), by)
        return iter(rows)

    def _has_file(self, job: TuningJob) -> bool:
        if (job.asked.get("method") or {}).get("type") != "active":
            return False
        record = self._journal.find_run(job.run)
        return record is not None and record.status == "finished"

    def _write(self, job: TuningJob) -> list[bytes]:
        rows = read_labels(self._journal, self._storage, job.run)
        chats = write_messages(rows, (job.tree.get("prompt") or {}).get("system"))
        return [f"{encode_json(chat)}\n".encode() for chat in chats]

    def list(self, by: str | None, may_see: Callable[[str], bool]) -> list[ApiFile]:
        """Return the files of `by` (None: of all), the newest first.

        Args:
            may_see: returns whether a run's labels are for the caller.
        """
        jobs = [job for job in self._jobs.list(by) if may_see(job.run) and self._has_file(job)]
        return [self.describe(job) for job in jobs]
