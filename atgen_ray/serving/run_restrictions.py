"""What a caller over HTTP may have a run read, and which runs it may name.

Storage and journal of a run are the service's own, and its files lie below `data_roots` or among
the uploads.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atgen_ray.config import (
    DataConfig,
    EvaluationConfig,
    HumanAnnotatorConfig,
    MetricModelsConfig,
    ModelAnnotatorConfig,
    RunConfig,
    ServiceConfig,
    list_annotators,
)
from atgen_ray.config.loading import dump_config
from atgen_ray.config.run import SOURCE_PATTERN, read_source
from atgen_ray.config.selection import SelectionConfig
from atgen_ray.core.errors import UserError
from atgen_ray.data.places import find_place
from atgen_ray.models.start_adapter import split_name
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.security.callers import Caller
from atgen_ray.serving.security.restrictions import check_hosts, check_location, restrict_config
from atgen_ray.serving.uploads import upload_folder


def add_storage(tree: dict[str, Any], service: ServiceConfig) -> dict[str, Any]:
    """Return the tree with the service's own storage and journal.

    Raises:
        UserError: the tree names others.
    """
    for key in ("storage", "database_url", "cache"):
        if key in tree:
            raise UserError(
                f"{key} is given, but a run of the service is kept in the service's own storage"
            )
    return tree | {"storage": service.storage, "database_url": service.database_url}


def restrict_run(config: RunConfig, service: ServiceConfig) -> RunConfig:
    """Return the configuration with its files resolved, after checking that a caller over HTTP
    may have them read.
    """
    model = config.model
    roots = [*service.data_roots, upload_folder(service.storage)]
    restrict_config(dump_config(config), service)
    check_hosts(config, service.notice_hosts)
    for key, annotator in list_annotators(config.annotator):
        if isinstance(annotator, HumanAnnotatorConfig) and annotator.gold.file is not None:
            check_location(annotator.gold.file, roots, f"{key}.gold.file")
    same_model = service.model is not None and model.id == service.model.id
    data = restrict_data(config.data, roots)
    for key, location in list_locations(config.evaluation):
        check_location(location, roots, key)
    if model.adapter is not None and not names_run(model.adapter):
        check_location(model.adapter, roots, "model.adapter")
    if not same_model:
        check_location(model.id, roots, "model.id")
    if config.embedding.model != service.embedding.model:
        check_location(config.embedding.model, roots, "embedding.model")
    selection = restrict_ids(config.selection, roots)
    return config.model_copy(update={"data": data, "selection": selection})


def restrict_ids(selection: SelectionConfig, roots: list[str]) -> SelectionConfig:
    """Return the section with the file of its ids resolved, after checking that it lies below
    `roots`.

    Raises:
        UserError: it is elsewhere.
    """
    if not isinstance(selection.ids, str):
        return selection
    found = check_location(selection.ids, roots, "selection.ids")
    return selection.model_copy(update={"ids": found})


def restrict_data(data: DataConfig, roots: list[str]) -> DataConfig:
    """Return the section with its files resolved, after checking that they lie below `roots`.

    Raises:
        UserError: pool, test set, target or folder is elsewhere.
    """
    given = {**data.locations, "data.path": data.path}
    moved = {
        key.removeprefix("data."): check_location(location, roots, key)
        for key, location in given.items()
        if location is not None
    }
    return data.model_copy(update=moved)


def check_addition(source: str, service: ServiceConfig) -> str:
    """Return the location of rows to add to a pool, resolved, after checking that a caller over
    HTTP may have them read, and that they are no more than may be uploaded at once.

    Raises:
        UserError: it lies elsewhere, or is larger.
    """
    found = check_location(source, [*service.data_roots, upload_folder(service.storage)], "source")
    place = find_place("source", found)
    size = sum(place.filesystem.size(path) or 0 for path in place.files)
    most = service.limits.upload_bytes
    if size > most:
        raise UserError(
            f"source is {source[:200]!r}, which has {size:,} bytes, expected at most {most:,} "
            f"(limits.upload_bytes): add it in parts"
        )
    return found


def names_run(adapter: str) -> bool:
    """Return whether `adapter` can only be RUN or RUN:ROUND, and no folder or URL."""
    return SOURCE_PATTERN.fullmatch(adapter) is not None and not Path(adapter).exists()


def check_names(config: RunConfig, caller: Caller | None) -> None:
    """Check that the caller may see the run that `config` describes, and the one that it goes on
    from; raises ApiError.
    """
    adapter = config.model.adapter or ""
    names = {"name": config.name, "fork_from": read_source(config)[0]}
    names |= {"model.adapter": split_name(adapter)[0] if names_run(adapter) else ""}
    for key, name in names.items():
        if name and caller is not None and not caller.may_see(name):
            allowed = ", ".join(caller.runs or ()) or "no run"
            raise ApiError(
                403, f"{key} is '{name}', but the token is for {allowed}; expected one of these"
            )


def list_locations(evaluation: EvaluationConfig) -> Iterator[tuple[str, str]]:
    """Yield key and location of what metrics, judges and rivals load, but for published
    checkpoints.
    """
    published = MetricModelsConfig().model_dump()
    for metric, models in evaluation.models.model_dump().items():
        for name, value in models.items():
            if isinstance(value, str) and value != published[metric][name]:
                yield f"evaluation.models.{metric}.{name}", value
    for key, judge in evaluation.list_asked():
        if isinstance(judge, ModelAnnotatorConfig):
            yield f"{key}.model.id", judge.model.id
