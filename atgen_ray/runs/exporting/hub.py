"""Pushing an export to a repository of the Hugging Face hub, by the hub's own client.

The token comes from HF_TOKEN alone, never from a file of a login, so that a service or another
account's shell cannot publish by accident. Repositories are made private.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atgen_ray.core.checkpoints import first_line
from atgen_ray.core.errors import UserError
from atgen_ray.runs.exporting.folders import CARD

VARIABLE = "HF_TOKEN"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def check_push(repository: str) -> str:
    """Return the token that may write to `repository`, before the work.

    Raises:
        UserError: the name is none of a repository, or there is no token.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise UserError(f"--push is {repository[:80]!r}, expected OWNER/NAME")
    token = os.environ.get(VARIABLE, "").strip()
    if not token:
        raise UserError(
            f"--push is '{repository}', but {VARIABLE} is not set: expected a token of the hub "
            f"that may write there"
        )
    return token


def push(path: Path, repository: str, kind: str, public: bool, message: str) -> str:
    """Upload a folder, or a card, to a repository, which is made if it is not there; return its
    URL.

    Args:
        kind: "model" or "dataset".
        public: make a public repository, or write to one.
        message: of the commit.

    Raises:
        UserError: the hub refuses, or the repository is public though `public` is not set.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=check_push(repository))
    with _explaining(repository):
        url = api.create_repo(repository, repo_type=kind, private=not public, exist_ok=True)
        if not public and api.repo_info(repository, repo_type=kind).private is not True:
            raise UserError(
                f"--push is '{repository}', which is public: expected a private repository, or "
                f"--public"
            )
        if path.is_dir():
            api.upload_folder(
                repo_id=repository, folder_path=path, repo_type=kind, commit_message=message
            )
        else:
            api.upload_file(
                path_or_fileobj=path,
                path_in_repo=CARD,
                repo_id=repository,
                repo_type=kind,
                commit_message=message,
            )
    return str(url)


@contextmanager
def _explaining(repository: str) -> Iterator[None]:
    """Turn errors of the hub and of the way to it into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the client's own, and those of the library of HTTP that it uses
        raise UserError(
            f"--push is '{repository}', which the hub did not take: {first_line(error)}"
        ) from None
