"""Steps that make the pool: read it, take over that of another run, embed it."""

from contextlib import ExitStack
from functools import partial
from typing import Any

from atgen_ray.config import HumanAnnotatorConfig, RunConfig, list_annotators
from atgen_ray.core.errors import UserError
from atgen_ray.core.records import (
    CONTEXT_SCHEMA,
    GOLD_SCHEMA,
    POOL_SCHEMA,
    DeadLetter,
    Progress,
)
from atgen_ray.data import overlap
from atgen_ray.data.chosen_ids import find_unknown_ids, read_ids
from atgen_ray.embedding import EmbeddingSpace
from atgen_ray.embedding.pool import FOLDER as EMBEDDINGS
from atgen_ray.embedding.pool import TARGET, WHITENING, list_contents, measure_whitening
from atgen_ray.runs.estimate import PoolSummary, warn_of_overlap
from atgen_ray.runs.given_labels import LEAKED, read_given
from atgen_ray.runs.run_context import RunContext
from atgen_ray.runs.shared_cache import open_embedding_cache, share_embeddings
from atgen_ray.runs.state import check_pool_size
from atgen_ray.runs.takeover import take_over
from atgen_ray.store.run_folder import RunFolder
from atgen_ray.store.step_outputs import describe_shared


def keeps_fields(config: RunConfig) -> bool:
    """Return whether the short columns of the rows are kept beside the inputs."""
    # Whoever leads people looks for tasks by the columns of their rows; so may a strategy.
    keeps = any("fields" in config.list_needs(round) for round in (1, 2)) or any(
        isinstance(annotator, HumanAnnotatorConfig)
        for _, annotator in list_annotators(config.annotator)
    )
    # The audit may group examples by such a column, too.
    return keeps or bool((audit := config.evaluation.audit) and audit.column)


class PoolSteps:
    """Pool, test set and target of a run, and their embeddings."""

    def __init__(self, run: RunContext) -> None:
        self._run = run

    def prepare(self) -> None:
        """Read the pool and the test set; known answers go to a separate table, which selection
        never sees.
        """
        run = self._run

        def make(progress: Progress, out: RunFolder) -> None:
            data = run.config.data
            prompt = run.config.prompt
            seed = run.config.seed if data.seed is None else data.seed
            keeps = keeps_fields(run.config)
            pool = run.workers.open_split(data, prompt, "pool", seed, progress, fields=keeps)
            check_pool_size(run.config, pool.size)
            test = None
            if data.test is not None:
                test = run.workers.build_split(data, prompt, "test", seed, progress)
            given = read_given(
                data, test, partial(run.workers.build_split, data, prompt, "labeled", seed)
            )
            summary = PoolSummary(pool.size)
            all_leaked = list[str]()
            with out.table_writer("pool.parquet", POOL_SCHEMA) as add_examples:
                with ExitStack() as files:
                    writer = out.table_writer("gold.parquet", GOLD_SCHEMA)
                    add_gold = files.enter_context(writer)
                    if data.context or keeps:
                        writer = out.table_writer("context.parquet", CONTEXT_SCHEMA)
                        add_context = files.enter_context(writer)
                    for examples, gold, context in pool.read():
                        leaked = overlap(examples, test.examples) if test else []
                        all_leaked += leaked
                        summary.add(examples, [*leaked, *given.take(examples, leaked)])
                        add_examples(examples)
                        add_gold(gold)
                        if data.context or keeps:
                            add_context(context)
                    if given.rest.num_rows:
                        add_examples(given.rest)
                    summary.given = len(given.labels)
                    if test:
                        add_gold(test.gold)
                if test:
                    out.write_table("test.parquet", test.examples)
                dead = [*pool.dead, *(test.dead if test else ()), *given.dead]
                dead += [DeadLetter(id_, "pool", LEAKED) for id_ in all_leaked]
                run.journal.record_dead_letters(run.lease, None, dead)
                if given.labels:
                    run.journal.record_annotations(run.lease, 0, given.labels)
                test_rows = len(test.examples) if test else 0
                plan = run.workers.estimate_run(run.config, summary, test_rows, run.journal)
                out.write_json("plan.json", plan)

        if run.state.inherited:
            self._take_over()
        run.committer.commit(0, "pool", "pool.parquet", make)
        self._check_overlap()
        self._check_chosen()

    def _take_over(self) -> None:
        """Copy pool, labels and ledger of another run, once."""
        run = self._run
        if not run.committer.has(0, "pool"):
            run.tracker.start_step(0, "takeover")
            take_over(run.config, run.journal, run.lease, run.folder)
            run.committer.reread()

    def prepare_target(self) -> None:
        """Read the prompts of the use in mind. A run that takes over another may have a new one."""
        run = self._run

        def make(progress: Progress, out: RunFolder) -> None:
            data = run.config.data
            prompt = run.config.prompt
            target = run.workers.build_split(data, prompt, "target", run.config.seed, progress)
            run.journal.record_dead_letters(run.lease, None, target.dead)
            out.write_table(TARGET, target.examples)

        if run.config.data.target is not None:
            run.committer.commit(0, "target", TARGET, make)

    def embed(self) -> None:
        """Embed pool and target if a strategy, the weighting of labels or the report uses
        embeddings. Whitening is measured once, on the whole pool.
        """
        run = self._run
        if not run.config.embeds:
            return
        self.embed_new(0, "embedding")
        folder = run.folder
        whiten = run.config.embedding.whitening

        def measure(progress: Progress, out: RunFolder) -> None:
            out.write_table(WHITENING, measure_whitening(folder, whiten, progress))

        if whiten != "off":
            run.committer.commit(0, "whitening", WHITENING, measure)

    def embed_new(self, round: int, step: str) -> None:
        """Embed the texts of pool and target that have no vector yet, as `step`."""
        run = self._run
        space = EmbeddingSpace.of(run.config)
        folder = run.folder
        embed = run.workers.embed_pool

        def make(progress: Progress, _: RunFolder) -> dict[str, Any]:
            # The vectors are written by the part, under names that nobody has used, and equal
            # texts have equal vectors: so they need not be made aside.
            if run.config.cache is None:
                embed(folder, space, progress)
                return describe_shared(folder, EMBEDDINGS)
            cache = open_embedding_cache(run.config.cache, space)
            contents = list_contents(folder)
            run.committer.add_reused_seconds(
                share_embeddings(cache, contents, folder, lambda: embed(folder, space, progress))
            )
            return describe_shared(folder, EMBEDDINGS)

        run.committer.commit(round, step, None, make)

    def _check_overlap(self) -> None:
        """Warn of examples that are in the test set too. Raise UserError where the pool has no
        others.
        """
        run = self._run
        if run.config.data.test is None:
            return
        rows = run.folder.count_rows("pool.parquet")
        test = run.folder.read_table("test.parquet", columns=["content"])
        pool = run.folder.scan_table("pool.parquet", columns=["id", "content"])
        leaked = sum(len(overlap(part, test)) for part in pool)
        warning = warn_of_overlap(rows, leaked)
        if leaked == rows:
            raise UserError(f"nothing can be labelled: {warning}")
        if warning:
            run.committer.warn(warning, "pool")

    def _check_chosen(self) -> None:
        """Raise UserError where selection.ids names what cannot be picked in the first round."""
        run = self._run
        given = run.config.selection.ids
        if given is None or run.committer.has(1, "selection"):
            return
        ids = read_ids(given)
        parts = run.state.scan_pool("id")
        for line in find_unknown_ids(given, ids, parts):
            raise UserError(line)
        if not run.state.choose_given().num_rows:
            raise UserError(
                f"selection.ids names {len(ids)} examples, none of which is left to label: each "
                f"is labelled already, or stands in data.test"
            )
