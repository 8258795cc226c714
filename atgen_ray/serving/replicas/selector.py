"""Deployment `selector` behind the query endpoint: an encoder, and the strategies, which also use
outputs of the deployment `model`.
"""

import asyncio
import threading
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.config import DataConfig, PromptConfig, ServiceConfig
from atgen_ray.core.log_format import set_up_logs
from atgen_ray.core.records import SAMPLES, GenerationRequest
from atgen_ray.embedding import EmbeddingSpace, fit_whitening
from atgen_ray.embedding.encoder import embed_texts
from atgen_ray.embedding.space import TextEncoder
from atgen_ray.engines.generation import gather_features
from atgen_ray.engines.hidden_states import append_states
from atgen_ray.ray_runtime.hardware import count_threads
from atgen_ray.selection import Embeddings, find_needs, select_batch
from atgen_ray.serving.errors import ApiError
from atgen_ray.serving.replicas.adapter_directory import Adapter
from atgen_ray.serving.replicas.base import open_directory
from atgen_ray.serving.replicas.given_vectors import read_vectors
from atgen_ray.serving.schemas.select import DatasetBody, SelectBody, pick_rows
from atgen_ray.serving.security.restrictions import check_location

BATCH_ROWS = 32
TEXTS = pa.schema([("id", pa.string()), ("text", pa.string())])

Checkpoint = Callable[[], None]
Result = TypeVar("Result")


class SelectionAbandonedError(Exception):
    """The caller of a selection has left."""


def _go_on() -> None:
    """Never end the work: its caller waits."""


async def run_cancellable(work: Callable[[Checkpoint], Result]) -> Result:
    """Return the result of `work`, which runs in a thread. `work` is given a function to call
    between its parts, which raises SelectionAbandonedError once the caller was cancelled.

    A cancellation returns only when the thread has ended: until then it uses the processor, and its
    slot must not be given to another caller.
    """
    gone = threading.Event()

    def check() -> None:
        if gone.is_set():
            raise SelectionAbandonedError

    working = asyncio.ensure_future(asyncio.to_thread(work, check))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        gone.set()
        await asyncio.wait([working])
        raise


class Selector:
    """Deployment with one encoder; each selection runs in a thread of its own."""

    def __init__(self, service: ServiceConfig, ready: bool = True) -> None:
        """`ready` loads the encoder at once, else when it is first needed."""
        set_up_logs()
        self._service = service
        if ready:
            self._encoder  # noqa: B018

    @cached_property
    def _encoder(self) -> TextEncoder:
        service = self._service
        threads = count_threads(1, service.engine.threads_per_worker)
        return EmbeddingSpace.of(service).build_encoder(threads)

    async def select(self, body: SelectBody) -> list[dict[str, Any]]:
        """Return the query batch of `body` as rows of PickBody."""
        return await run_cancellable(lambda check: self.select_now(body, check))

    async def check_health(self) -> None:
        """Return at once. Serve replaces the replica if it does not, since its event loop hangs
        then.
        """

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """Return L2-normalised vectors of the texts."""
        return await run_cancellable(
            lambda check: [[float(x) for x in row] for row in self._embed(texts, check)]
        )

    def select_now(self, body: SelectBody, check: Checkpoint = _go_on) -> list[dict[str, Any]]:
        """Return the query batch as `select` does, in the caller's thread.

        Args:
            check: called between the parts of the work; ends it by raising.

        Raises:
            ApiError, UserError: the request is wrong.
        """
        needs = find_needs(body.strategy, body.parameters)
        # Tables, not objects: there may be a million examples.
        examples = self._read(body)
        labeled = {example.id: example for example in body.labeled}
        known = pa.array(labeled, pa.string())
        rows = examples.filter(pc.invert(pc.is_in(examples["id"], known)))
        more = {"id": known, "text": [example.text for example in body.labeled]}
        everything = pa.concat_tables(
            [rows.select(TEXTS.names), pa.table(more, schema=TEXTS)]
        ).combine_chunks()
        asked = len(everything) + len(body.target)
        if asked > (limit := self._service.limits.examples):
            raise ApiError(
                413,
                f"{asked:,} examples are more than {limit:,} (limits.examples): leave "
                f"some out, or set dataset.limit",
            )
        labels = {
            id_: example.label for id_, example in labeled.items() if example.label is not None
        }
        if "labels" in needs and len(labels) < len(labeled):
            raise ApiError(
                400,
                f"strategy '{body.strategy}' looks at labels, expected one with every labelled "
                f"example",
            )
        if "target" in needs and not body.target:
            raise ApiError(400, f"strategy '{body.strategy}' picks for a target, expected `target`")
        if "fields" in needs:
            raise ApiError(
                400, "parameters.column names a column, which a request has not, expected a run"
            )
        if not len(rows):
            raise ApiError(400, "every example is labelled already, expected some that are not")
        # Only what the strategy needs is computed: outputs of the model take by far the longest.
        features = None
        if needs & {"generations", "samples", "states"}:
            given = rows["id"].to_pylist(), rows["text"].to_pylist()
            texts = dict(zip(*given, strict=True))
            features = self._features(body, texts, "samples" in needs, check)
        embeddings = target = None
        if needs & {"embeddings", "target"}:
            everything = everything.sort_by("id")
            vectors = self._find_vectors(body, everything, examples, check)
            wanted = self._embed(body.target, check) if body.target else vectors[:0]
            whitening = fit_whitening(vectors, self._service.embedding.whitening)
            if whitening is not None:
                vectors, wanted = whitening.apply(vectors), whitening.apply(wanted)
            embeddings = Embeddings(everything["id"].combine_chunks(), vectors)
            target = Embeddings([f"{at:09d}" for at in range(len(wanted))], wanted)
        check()
        picks = select_batch(
            body.strategy,
            body.parameters,
            ids=rows["id"].combine_chunks(),
            count=body.count,
            labeled=labeled.keys(),
            embeddings=embeddings,
            features=features,
            texts=everything if "texts" in needs else None,
            labels=labels,
            target=target,
            seed=body.seed,
        )
        picked = rows.filter(pc.is_in(rows["id"], picks["id"].combine_chunks()))
        places = dict(zip(picked["id"].to_pylist(), picked["row"].to_pylist(), strict=True))
        return [row | {"row": places[row["id"]]} for row in pick_rows(picks)]

    def _find_vectors(
        self, body: SelectBody, everything: pa.Table, examples: pa.Table, check: Checkpoint
    ) -> Any:
        """Return the vectors of `everything`, as the dataset gives them or by the encoder."""
        dataset = body.dataset
        if dataset is None or dataset.embedding is None:
            return self._embed(everything["text"].to_pylist(), check)
        if body.target:
            raise ApiError(
                400,
                "target is embedded by the service, expected no dataset.embedding, whose vectors "
                "are of another space",
            )
        at = pc.index_in(everything["id"], examples["id"].combine_chunks())
        if at.null_count:
            missing = everything["id"].filter(pc.is_null(at))[0]
            raise ApiError(
                400,
                f"labeled holds '{missing}', which the dataset has not: dataset.embedding has no "
                f"vector for it",
            )
        rows = examples["row"].take(at).to_numpy()
        return read_vectors(self._locate(dataset), dataset.embedding, rows)

    def _locate(self, dataset: DatasetBody) -> str:
        return check_location(dataset.path, self._service.data_roots, "dataset.path")

    def _read(self, body: SelectBody) -> pa.Table:
        """Return the examples: id, text, and of those of a dataset the source row."""
        if body.dataset is None:
            given = body.examples or []
            columns = {"id": [each.id for each in given], "text": [each.text for each in given]}
            table = pa.table(columns, schema=TEXTS)
            return table.append_column("row", pa.nulls(len(table), pa.int64()))
        from atgen_ray.data import build_split

        dataset = body.dataset
        data = DataConfig(
            pool=self._locate(dataset),
            format=dataset.format,
            pool_split=dataset.split,
            input=dataset.input,
            limit=dataset.limit,
        )
        # Near-duplicates are left out, as a run leaves them out of its pool.
        table = build_split(data, PromptConfig(), "pool", body.seed).examples
        table = table.filter(pc.is_null(table["duplicate_of"]))
        return table.select(["id", "text", "row"]).cast(TEXTS.append(pa.field("row", pa.int64())))

    def _embed(self, texts: list[str], check: Checkpoint = _go_on) -> Any:
        return embed_texts(self._encoder, texts, check)

    def _features(
        self, body: SelectBody, texts: dict[str, str], sampled: bool, check: Checkpoint
    ) -> pa.Table:
        """Return the model's outputs for each text, generated by the replicas, with hidden states
        if the strategy needs them.
        """
        from atgen_ray.engines.serve_engine import APP, connect_replicas
        from atgen_ray.engines.token_calls import TokenCaller

        service = self._service
        if service.model is None:
            raise ApiError(
                400,
                f"strategy '{body.strategy}' looks at the model's outputs, but this service has "
                f"no model",
            )
        directory = open_directory(service)
        name = directory.parse(body.model or directory.base)
        adapter: Adapter | None = directory.find(name) if name else None
        request = GenerationRequest(
            service.model.max_new_tokens, samples=SAMPLES if sampled else 0, seed=body.seed
        )
        digest = adapter.digest if adapter else None
        caller = TokenCaller(
            service.model, service.prompt, request, name, partial(connect_replicas, APP, digest)
        )
        # The longest first, so that the texts of a batch are of similar length.
        ids = sorted(texts, key=lambda id_: (-len(texts[id_]), id_))
        outputs: list[pa.Table] = []
        for start in range(0, len(ids), BATCH_ROWS):
            part = ids[start : start + BATCH_ROWS]
            for sample in range(request.samples + 1):
                check()
                columns = {
                    "id": part,
                    "text": [texts[id_] for id_ in part],
                    "sample": [sample] * len(part),
                }
                outputs.append(caller(pa.table(columns)))
        examples = pa.table({"id": ids, "text": [texts[id_] for id_ in ids]})
        features = gather_features(examples["id"], pa.concat_tables(outputs))
        if "states" in find_needs(body.strategy, body.parameters):
            features = append_states(
                features,
                examples,
                service.model,
                service.prompt,
                service.engine,
                adapter.stored if adapter else None,
                lambda done, total: None,
            )
        return features
