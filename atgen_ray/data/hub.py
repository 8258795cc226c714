"""Datasets of the Hugging Face hub: the files of a repository, and copies of them in the hub's own
cache.

The loaders of `datasets` are not used. They take the name of one of their own modules (text, csv)
for a dataset, and open whatever a repository's card names, on this machine or elsewhere.
"""

import re
from pathlib import Path

from atgen_ray.core.errors import UserError

_REVISION = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")
CARD = "README.md"


class HubDataset:
    """A dataset repository at one commit.

    Raises:
        OSError: the hub is unreachable and its cache holds nothing of the repository, or there is
            no such repository.
        UserError: `revision`, the value of data.revision, is no name of a revision.
        ValueError: `repository` is no name of one.
    """

    def __init__(self, repository: str, revision: str | None) -> None:
        if revision is not None and not _REVISION.fullmatch(revision):
            raise UserError(
                f"data.revision is {revision[:80]!r}, expected a branch, a tag or a commit"
            )
        self._repository = repository
        self._revision = revision
        self.folder = self._download([CARD])

    @property
    def card(self) -> str | None:
        """Return the text of its README.md, or None."""
        path = self.folder / CARD
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None

    def list_files(self) -> list[str]:
        """Return the paths in the repository, sorted; if the hub is unreachable, those in the
        cache.
        """
        from huggingface_hub import HfApi

        try:
            listed = HfApi().list_repo_files(
                self._repository, revision=self.folder.name, repo_type="dataset"
            )
        except Exception:  # every HTTP client has exceptions of its own for an unreachable hub
            listed = [
                path.relative_to(self.folder).as_posix()
                for path in self.folder.rglob("*")
                if path.is_file()
            ]
        return sorted(listed)

    def fetch(self, files: list[str]) -> list[str]:
        """Return local paths of `files`; download those that the cache lacks. Raise OSError on
        failure.
        """
        self._revision = self.folder.name
        self._download(files)
        return [str(self.folder / file) for file in files]

    def _download(self, files: list[str]) -> Path:
        from huggingface_hub import snapshot_download

        wanted = [re.sub(r"[*?[]", lambda found: f"[{found[0]}]", file) for file in files]
        return Path(
            snapshot_download(
                self._repository,
                repo_type="dataset",
                revision=self._revision,
                allow_patterns=wanted,
            )
        )
