"""What providers of annotating models hold of an example or a run: deleted by their APIs where
these have a way, and named where they have none.
"""

from collections.abc import Mapping

import sqlalchemy as sa

from atgen_ray.annotation.disclosure import list_remote
from atgen_ray.annotation.providers.base import Provider, ProviderError
from atgen_ray.annotation.registry import build_provider
from atgen_ray.config import RemoteAnnotatorConfig, RunConfig
from atgen_ray.core.errors import UserError
from atgen_ray.runs.deletion.certificate import Certificate, Remaining, Removed
from atgen_ray.store.journal import Journal
from atgen_ray.store.tables import requests, shards

# What each provider keeps of what it was sent, by its public documentation of 2025; a contract may
# say otherwise.
KEEPS = {
    "openai": "logs of prompts and answers against abuse for up to 30 days, unless your contract "
    "has zero retention; the entry of a batch job without its files",
    "anthropic": "inputs and outputs for up to 30 days, unless your contract says otherwise",
    "mistral": "inputs and outputs against abuse for 30 days, unless your contract has zero "
    "retention; the entry of a batch job without its files",
    "gemini": "prompts and answers against abuse for up to 55 days",
}


def forget_remote(
    journal: Journal,
    config: RunConfig,
    ids: frozenset[str] | None,
    out: Certificate,
    rehearse: bool,
) -> None:
    """Delete at the providers what they keep of the shards of a run that had one of `ids` (None:
    of all); add what stays to the certificate.

    A later shard may have shown a label as a solved example, so that those of later rounds count
    too where prompts have such examples.
    """
    for key, annotator in list_remote(config):
        remotes = _list_shards(journal, config.name, key, annotator, ids)
        if not remotes:
            continue
        kind: str = annotator.type  # type: ignore[attr-defined]
        place = f"provider {kind} ({annotator.model})"
        why = KEEPS.get(kind, "what it says in its terms")
        out.add(
            Remaining(place, f"what {len(remotes)} calls or jobs of run {config.name} sent", why)
        )
        try:
            provider = build_provider(annotator, config.name, key)
        except UserError as error:
            out.add(
                Remaining(
                    place,
                    "files and stored answers",
                    str(error),
                    "give the key, then the same command again",
                )
            )
            continue
        for remote, done in remotes.items():
            _forget(provider, place, remote, done, out, rehearse)


def _forget(
    provider: Provider, place: str, remote: str, done: bool, out: Certificate, rehearse: bool
) -> None:
    if not done and provider.limits.rows > 1:
        out.add(
            Remaining(
                place,
                f"batch job {remote}",
                "it is under way",
                "let the run collect it, or cancel it, then give the same command again",
            )
        )
        return
    try:
        gone = provider.forget(remote, rehearse)
    except ProviderError as error:
        out.add(
            Remaining(
                place,
                remote,
                f"it was not deleted: {error.message}"[:300],
                "give the same command again",
            )
        )
        return
    for name in gone:
        out.add(Removed(place, name))


def _list_shards(
    journal: Journal,
    run: str,
    key: str,
    annotator: RemoteAnnotatorConfig,
    ids: frozenset[str] | None,
) -> Mapping[str, bool]:
    """Return the provider's ids of the shards, and whether each is settled."""
    if key.startswith("evaluation."):  # a judge: its questions show any example
        ids = None
    mine = (shards.c.run == run) & shards.c.remote.is_not(None)
    query = sa.select(shards).where(mine).order_by(shards.c.time)
    shots = getattr(annotator, "shots", 0)
    with journal.database.reading() as connection:
        asked = sa.select(requests.c.shard, requests.c.example_id, requests.c.round)
        rows = connection.execute(asked.where(requests.c.run == run)).all()
        found = connection.execute(query).mappings().all()
    touched = {row.shard for row in rows if ids is None or row.example_id in ids}
    first = min((row.round for row in rows if ids and row.example_id in ids), default=None)
    return {
        str(row["remote"]): bool(row["done"])
        for row in found
        if _asks(row["annotator"], annotator)
        and (row["hash"] in touched or (shots and first is not None and row["round"] > first))
    }


def list_open_jobs(journal: Journal, run: str, annotator: RemoteAnnotatorConfig) -> list[str]:
    """Return the provider's ids of the batch jobs of a run that are under way."""
    if annotator.mode != "batch":
        return []
    mine = (shards.c.run == run) & ~shards.c.done & shards.c.remote.is_not(None)
    with journal.database.reading() as connection:
        rows = connection.execute(sa.select(shards.c.remote, shards.c.annotator).where(mine)).all()
    return [row.remote for row in rows if _asks(row.annotator, annotator)]


def _asks(name: str, annotator: RemoteAnnotatorConfig) -> bool:
    """Return whether a shard's annotator is this one; its name may have the number of a stage."""
    return name.partition("#")[0].endswith(f"/{annotator.model}")
