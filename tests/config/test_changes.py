"""Which settings a run that goes on may be given anew: every one of them is decided."""

from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from atgen_ray.config import RunConfig
from atgen_ray.config.changes import find_changes
from atgen_ray.config.loading import dump_config, parse_config
from atgen_ray.core.schema import find_alternatives, find_section, may_change

# Of each section: the settings that say how the work is done or when it ends, then those that
# decide what is bought or what it is worth. A new setting goes to one of the two, and is
# `Changeable` in the first case.
DECIDED = {
    "RunConfig": (
        "storage database_url cache stopping notify",
        "name seed fork_from data prompt model engine embedding selection annotator training "
        "evaluation",
    ),
    "DataConfig": (
        "",
        "pool test target labeled labeled_references format path subset revision pool_split test_split target_split input context references "
        "test_references "
        "reference_template merge_repeats limit test_limit seed duplicates",
    ),
    "DuplicatesConfig": (
        "",
        "action threshold",
    ),
    "PromptConfig": (
        "",
        "system template few_shot response_start overlong",
    ),
    "Shot": (
        "",
        "input output",
    ),
    "ModelConfig": (
        "host",
        "id revision trust_remote_code dtype max_prompt_tokens max_new_tokens",
    ),
    "TargetModelConfig": (
        "host",
        "id revision trust_remote_code dtype max_prompt_tokens max_new_tokens adapter",
    ),
    "EngineConfig": (
        "workers cpus_per_worker threads_per_worker gpus_per_worker keep batch_size check_rows "
        "adapter_tolerance",
        "backend adapters options",
    ),
    "EmbeddingConfig": (
        "workers gpus_per_worker batch_size",
        "source model max_tokens dtype layer position render whiten",
    ),
    "SelectionConfig": (
        "workers",
        "strategy count parameters first ids turns candidates shortlist",
    ),
    "FirstBatchConfig": (
        "",
        "strategy count parameters",
    ),
    "ShortlistConfig": (
        "",
        "count strategy parameters",
    ),
    "DatasetAnnotatorConfig": (
        "price_per_label",
        "type",
    ),
    "GoldConfig": (
        "pass_mark",
        "file share quiz",
    ),
    "HumanAnnotatorConfig": (
        "price_per_label display agreement adjudicate_below lease_minutes skips settle_seconds "
        "notice",
        "type guidelines examples mode overlap overlap_at_most gold drafts",
    ),
    "OpenAIAnnotatorConfig": (
        "max_output_tokens reasoning_effort thinking_tokens api_key_file price tokenizer concurrency "
        "timeout_seconds outage_minutes poll_seconds batch_hours "
        "shard_rows "
        "on_stop in_doubt",
        "guidelines examples shots temperature votes agreement output_schema "
        "output_field "
        "checks repair probe suspects structured model mode base_url type recovery extra_body extra_headers dialect api_version",
    ),
    "ChecksConfig": (
        "",
        "min_chars max_chars regex refusals custom",
    ),
    "AnthropicAnnotatorConfig": (
        "max_output_tokens reasoning_effort thinking_tokens api_key_file price tokenizer concurrency "
        "timeout_seconds outage_minutes poll_seconds batch_hours "
        "shard_rows "
        "on_stop in_doubt prompt_cache",
        "guidelines examples shots temperature votes agreement output_schema "
        "output_field "
        "checks repair probe suspects structured model mode base_url type extra_body extra_headers",
    ),
    "MistralAnnotatorConfig": (
        "max_output_tokens reasoning_effort thinking_tokens api_key_file price tokenizer concurrency "
        "timeout_seconds outage_minutes poll_seconds batch_hours "
        "shard_rows "
        "on_stop in_doubt",
        "guidelines examples shots temperature votes agreement output_schema "
        "output_field "
        "checks repair probe suspects structured model mode base_url type extra_body extra_headers",
    ),
    "GeminiAnnotatorConfig": (
        "max_output_tokens reasoning_effort thinking_tokens api_key_file price tokenizer concurrency "
        "timeout_seconds outage_minutes poll_seconds batch_hours "
        "shard_rows "
        "on_stop in_doubt",
        "guidelines examples shots temperature votes agreement output_schema "
        "output_field "
        "checks repair probe suspects structured model mode base_url type extra_body extra_headers",
    ),
    "ModelAnnotatorConfig": (
        "price_per_label max_output_tokens",
        "guidelines examples shots temperature votes agreement output_schema "
        "output_field "
        "checks repair probe suspects type model engine",
    ),
    "PluginAnnotatorConfig": (
        "price_per_label",
        "type name parameters",
    ),
    "RouterConfig": (
        "",
        "type first then when stages",
    ),
    "StageConfig": (
        "",
        "annotator when",
    ),
    "RouteConfig": (
        "price_at_most",
        "confidence_below agreement_below kinds share",
    ),
    "TrainingConfig": (
        "accumulation packing gradient_checkpointing workers checkpoint_steps "
        "trackers tracking cpus_per_worker threads_per_worker use_gpu gpus_per_worker",
        "method backend rank alpha dropout target_modules order turns epochs early_stopping "
        "learning_rate schedule "
        "warmup_fraction weight_decay max_grad_norm batch_size reweight warm_start sharding",
    ),
    "EarlyStoppingConfig": (
        "",
        "from_examples patience",
    ),
    "EvaluationConfig": (
        "rivals",
        "metrics models judge judges zero_shot few_shot dev_fraction bootstrap_samples confidence "
        "audit",
    ),
    "AuditConfig": (
        "",
        "labels column embeddings models",
    ),
    "MetricModelsConfig": (
        "",
        "bertscore bartscore alignscore",
    ),
    "BERTScoreConfig": (
        "",
        "model layer",
    ),
    "BARTScoreConfig": (
        "",
        "model",
    ),
    "AlignScoreConfig": (
        "",
        "checkpoint base",
    ),
}
OPENAI = {"type": "openai", "model": "m", "guidelines": "g", "price": {"input": 1.0, "output": 1.0}}
TREE = {"data": {"pool": "p.jsonl", "references": "a"}, "model": {"id": "m"}, "annotator": OPENAI}


def list_sections(section: type[BaseModel], known: set[str]) -> Iterator[type[BaseModel]]:
    """`section` and all below that are not changeable as a whole."""
    if section.__name__ in known:
        return
    known.add(section.__name__)
    yield section
    for field in section.model_fields.values():
        below = [*find_alternatives(field).values(), find_section(field.annotation)]
        for each in below if not may_change(field) else ():
            if each is not None:
                yield from list_sections(each, known)


SECTIONS = {section.__name__: section for section in list_sections(RunConfig, set())}


def test_no_section_is_forgotten() -> None:
    assert set(SECTIONS) == set(DECIDED)


@pytest.mark.parametrize("name", DECIDED)
def test_every_setting_is_decided(name: str) -> None:
    changeable, fixed = (set(part.split()) for part in DECIDED[name])
    fields = SECTIONS[name].model_fields
    assert not changeable & fixed
    assert changeable | fixed == set(fields)
    assert {key for key, field in fields.items() if may_change(field)} == changeable


@pytest.mark.parametrize(
    ("below", "key", "allowed"),
    [
        ({"annotator": OPENAI | {"timeout_seconds": 9.0}}, "annotator.timeout_seconds", True),
        (
            {"annotator": OPENAI | {"price": {"input": 2.0, "output": 1.0}}},
            "annotator.price.input",
            True,
        ),
        ({"annotator": OPENAI | {"votes": 3, "temperature": 0.7}}, "annotator.temperature", False),
        (
            {"stopping": {"plateau": {"metric": "rouge1"}}, "evaluation": {"dev_fraction": 0.2}},
            "evaluation.dev_f",
            False,
        ),
        ({"stopping": {"dollars": 5.0}}, "stopping.dollars", True),
        ({"training": {"trackers": ["wandb"]}}, "training.trackers", True),
        ({"training": {"method": "dora"}}, "training.method", False),
        ({"evaluation": {"metrics": ["chrf"]}}, "evaluation.metrics", False),
        ({"prompt": {"few_shot": [{"input": "a", "output": "b"}]}}, "prompt.few_shot", False),
        ({"engine": {"batch_size": 4}}, "engine.batch_size", True),
        ({"seed": 1}, "seed", False),
    ],
)
def test_a_change_is_found_with_its_key_and_whether_it_is_allowed(
    below: dict[str, object], key: str, allowed: bool
) -> None:
    before, now = dump_config(parse_config(dict(TREE))), dump_config(parse_config(TREE | below))
    first = next(iter(find_changes(before, now, RunConfig)))
    assert first.key.startswith(key)
    assert first.allowed == allowed


def test_what_another_type_of_annotator_has_does_not_open_it() -> None:
    now = dump_config(parse_config(TREE | {"annotator": {"type": "dataset"}}))
    changes = [*find_changes(dump_config(parse_config(dict(TREE))), now, RunConfig)]
    assert not all(change.allowed for change in changes)


def test_the_settings_of_a_stage_change_like_those_of_an_annotator() -> None:
    def configure(**settings: object) -> dict[str, object]:
        stages = [
            {"annotator": OPENAI | {"votes": 2, "temperature": 0.7} | settings},
            {"annotator": "human"},
        ]
        return dump_config(parse_config(TREE | {"annotator": {"type": "router", "stages": stages}}))

    for setting, value, allowed in (("timeout_seconds", 9.0, True), ("votes", 3, False)):
        changes = [*find_changes(configure(), configure(**{setting: value}), RunConfig)]
        assert [(change.key, change.allowed) for change in changes] == [
            (f"annotator.stages.0.annotator.{setting}", allowed)
        ]
