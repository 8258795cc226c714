"""Configurations: what is right is read as it looks, what is wrong is one line that says how to
mend it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from helpers.command_line import SMALLEST, call, write_config
from pydantic import BaseModel, SecretStr, ValidationError

from atgen_ray.config import RunConfig
from atgen_ray.config.loading import (
    dump_config,
    list_presets,
    load_config,
)
from atgen_ray.config.reference import explain_config, explain_strategies
from atgen_ray.core.errors import UserError
from atgen_ray.core.names import check_run_name
from atgen_ray.core.strict_yaml import dump_yaml
from atgen_ray.selection import STRATEGIES

CANARY = "postgresql://atgen:pw-canary@db.example/atgen"
JUDGE = "{type: openai, model: gpt-4.1-mini, guidelines: Grade.}"
STEERED = (
    "stopping.plateau, stopping.gain and stopping.dev_target need evaluation.dev_fraction "
    "above 0, as 0.2"
)
TOP = (
    "annotator, cache, data, database_url, embedding, engine, evaluation, fork_from, model, "
    "name, notify, prompt, seed"
)

# A setting that is wrong, and the line that it gives.
WRONG_SETTINGS = {
    # keys nobody knows, at every depth
    "stoping.rounds=3": "unknown key 'stoping'; did you mean 'stopping'?",
    "zebra=3": f"unknown key 'zebra'; known: {TOP}, selection, stopping, storage, training",
    # keys that stand in another section
    "strategy=random": "unknown key 'strategy'; did you mean 'selection.strategy'?",
    "rounds=3": "unknown key 'rounds'; did you mean 'stopping.rounds'?",
    "stratgy=random": "unknown key 'stratgy'; did you mean 'selection.strategy'?",
    "selection.metrics=[chrf]": "unknown key 'selection.metrics'; did you mean "
    "'evaluation.metrics'?",
    "gpus_per_worker=1": "unknown key 'gpus_per_worker'; did you mean one of "
    "engine.gpus_per_worker, ",
    "training.epoch=3": "unknown key 'training.epoch'; did you mean 'epochs'?",
    "data.duplicates.treshold=0.5": "unknown key 'data.duplicates.treshold'; did you mean "
    "'threshold'?",
    "selection.first.counts=5": "unknown key 'selection.first.counts'; did you mean 'count'?",
    "stopping.plateau.patiance=5": "unknown key 'stopping.plateau.patiance'; did you mean "
    "'patience'?",
    "prompt.few_shot=[{input: a, output: b, outptu: c}]": (
        "unknown key 'prompt.few_shot.0.outptu'; did you mean 'output'?"
    ),
    "training={1: 2}": "unknown key 'training.1'; known: accumulation, alpha, backend, ",
    'training={"epochs\\nseed": 2}': r"unknown key 'training.epochs\nseed'; did you mean 'epochs'?",
    # GPUs of an engine
    "engine.gpus_per_worker=2.5": "engine.gpus_per_worker is 2.5, expected a whole number above 1",
    "engine={gpus_per_worker: 3, options: {tensor_parallel_size: 2}}": (
        "engine.gpus_per_worker is 3, expected 2, since options split the model into as many parts"
    ),
    # values of the wrong type
    "training.rank=high": "training.rank is 'high', expected a valid integer",
    "training.rank=2.5": "training.rank is 2.5, expected a valid integer",
    'training.rank="2"': "training.rank is '2', expected a valid integer",
    "training.rank=true": "training.rank is true, expected a valid integer",
    "training.learning_rate=true": "training.learning_rate is true, expected a valid number",
    "training.learning_rate=.inf": "training.learning_rate is '.inf', expected a valid number",
    "training.learning_rate=1e999": "training.learning_rate is inf, expected a finite number",
    "training.warm_start=1": "training.warm_start is 1, expected a valid boolean",
    "training.warm_start=no": "training.warm_start is 'no', expected a valid boolean",
    "model.id=7": "model.id is 7, expected a valid string",
    "model.id=null": "model.id is null, expected a valid string",
    "model.id=[a, b]": "model.id is ['a', 'b'], expected a valid string",
    "data=pool.jsonl": "data is 'pool.jsonl', expected keys and values",
    "stopping.plateau=true": "stopping.plateau is true, expected keys and values",
    "data.references=3": "data.references is 3, expected str | list of str | null",
    "data.references=[a, 3]": "data.references is ['a', 3], expected str | list of str | null",
    "evaluation.metrics=rougeL": "evaluation.metrics is 'rougeL', expected a valid list",
    "evaluation.metrics=[rougeL, 1]": "evaluation.metrics.1 is 1, expected a valid string",
    "prompt.few_shot=[3]": "prompt.few_shot.0 is 3, expected keys and values",
    "engine.options=[1]": "engine.options is [1], expected a valid dictionary",
    "engine.options={1: 2}": "engine.options.1 is 1, expected a valid string",
    "engine.options={a: {1: 2}}": "engine.options.a is 1, expected a valid string",
    "engine.options={a: &b [*b]}": "engine.options.a contains itself, expected plain values",
    "stopping.dev_target={rougeL: high}": "stopping.dev_target.rougeL is 'high', expected a valid "
    "number",
    # values out of bounds
    "stopping.rounds=0": "stopping.rounds is 0, expected greater than 0",
    "selection.count=-1": "selection.count is -1, expected greater than 0",
    "seed=-1": "seed is -1, expected greater than or equal to 0",
    "training.dropout=1.5": "training.dropout is 1.5, expected less than or equal to 1",
    "evaluation.confidence=1.0": "evaluation.confidence is 1.0, expected less than 1",
    "evaluation.dev_fraction=1": "evaluation.dev_fraction is 1, expected less than 1",
    "annotator.price_per_label=-0.5": "annotator.price_per_label is -0.5, expected greater than "
    "or equal to 0",
    # choices
    "engine.backend=vlm": "engine.backend is 'vlm', expected 'auto', 'vllm', 'sglang' or 'transformers'; "
    "did you mean 'vllm'?",
    "engine.backend=zzz": "engine.backend is 'zzz', expected 'auto', 'vllm', 'sglang' or 'transformers'",
    "data.format=[jsonl]": "data.format is ['jsonl'], expected 'auto', 'jsonl', 'csv'",
    "annotator.type=openia": "annotator.type is 'openia', expected a known type; did you mean "
    "'openai'?",
    "annotator=[1]": "annotator is [1], expected keys and values",
    "annotator=openai": "key 'annotator.model' is missing, expected str: Name of the model at the "
    "provider",
    "annotator={type: openai, model: gpt-9, guidelines: x}": (
        "annotator.model is 'gpt-9', whose price is unknown: set annotator.price.input and "
        "annotator.price.output"
    ),
    "annotator={type: openai, model: gpt-4o, guidelines: x, vots: 3}": (
        "unknown key 'annotator.vots'; did you mean 'votes'?"
    ),
    "annotator={type: router, first: {type: openai, model: gpt-4o, guidelines: x}, then: human}": (
        "annotator.first.votes is 1, expected 2 or more: their agreement is the confidence"
    ),
    "selection.strategy=hudz": "selection.strategy is 'hudz', expected a known strategy; did you "
    "mean 'huds'?",
    "selection.strategy=zz": "selection.strategy is 'zz', expected a known strategy; known: ",
    "selection.first.strategy=randon": (
        "selection.first.strategy is 'randon', expected a known strategy; did you mean 'random'?"
    ),
    "selection.first.parameters.strata=3": "selection.first.parameters is given, expected "
    "selection.first.strategy",
    "selection.parameters.stratta=3": "unknown key 'selection.parameters.stratta'; did you mean "
    "'strata'?",
    "selection.first={strategy: kmeans, parameters: {strata: 3}}": (
        "unknown key 'selection.first.parameters.strata'; none is known here"
    ),
    "selection.parameters.strata=few": "selection.parameters.strata is 'few', expected a valid "
    "integer",
    "selection.parameters.diversity_weight=3": (
        "selection.parameters.diversity_weight is 3, expected less than or equal to 1"
    ),
    "selection.parameters.guard.min_word=1": (
        "unknown key 'selection.parameters.guard.min_word'; did you mean 'min_words'?"
    ),
    "selection={strategy: ensemble, parameters: {members: {nsp: {wait: 1}}}}": (
        "unknown key 'selection.parameters.members.nsp.wait'; did you mean 'weight'?"
    ),
    "selection={strategy: ensemble, parameters: {members: {nsq: {weight: [1, 0.5]}}}}": (
        "selection.parameters.members: 'nsq' is not a strategy that can vote; did you mean 'nsp'?"
    ),
    "selection={strategy: ensemble, parameters: {members: [nsp]}}": (
        "selection.parameters.members is ['nsp'], expected a valid dictionary"
    ),
    "selection.parameters.stratify=equal_sise": (
        "selection.parameters.stratify is 'equal_sise', expected 'equal_size' or 'equal_width'; "
        "did you mean 'equal_size'?"
    ),
    "evaluation.metrics=[rougel]": "evaluation.metrics holds 'rougel', expected a known metric; "
    "did you mean 'rougeL'?",
    "evaluation.metrics=[]": "evaluation.metrics is empty, expected at least one of rouge1",
    "evaluation.rivals=[few_shots]": "evaluation.rivals holds 'few_shots', expected one of "
    "zero_shot, knn, few_shot, prompt, larger; did you mean 'few_shot'?",
    "evaluation.rivals=[knn, {type: knn}]": "evaluation.rivals holds 'knn' twice, expected it once",
    "evaluation.rivals=[larger]": "evaluation.rivals holds 'larger' alone, expected its model",
    "evaluation.rivals=[{type: few_shot, k: 0}]": "evaluation.rivals.0.k is 0, expected greater",
    "evaluation.rivals=[{type: prompt, proposals: 0}]": "holds prompt with no instructions and 0",
    "evaluation.rivals=[{type: larger, model: {type: openai, model: nobody}}]": (
        "evaluation.rivals.0.model.model is 'nobody', whose price is unknown"
    ),
    # what does not fit together
    "data.references=null": "annotator.type is 'dataset' but data.references is empty, expected "
    "the answers' column",
    "data.references=[]": "annotator.type is 'dataset' but data.references is empty, expected the "
    "answers' column",
    "stopping.gain.per_dollar=0.1": STEERED,
    "stopping.gain={per_dollar: 0.1, metric: rogueL}": "stopping names metric 'rogueL', expected",
    "stopping.gain.certainty=0.5": "key 'stopping.gain.per_dollar' is missing, expected float: "
    "Least rise",
    "stopping.plateau={}": STEERED,
    "stopping.dev_target.rougeL=0.5": STEERED,
    "stopping.dev_target.rougel=0.5": (
        "stopping names metric 'rougel', expected a known metric; did you mean 'rougeL'?"
    ),
    "evaluation.metrics=[llm_judge]": "evaluation.metrics holds 'llm_judge', expected "
    "evaluation.judge beside it",
    "evaluation.judge={type: openai, model: nobody}": "evaluation.judge.model is 'nobody'",
    "evaluation.metrics=[judge_spread]": "evaluation.metrics holds 'judge_spread', expected "
    "evaluation.judges beside it: two or more",
    f"evaluation={{metrics: [judge_spread], judge: {JUDGE}}}": "expected evaluation.judges beside",
    f"evaluation.judges=[{JUDGE}]": "evaluation.judges holds 1 judge, expected 2 or more",
    f"evaluation={{judge: {JUDGE}, judges: [{JUDGE}, {JUDGE}]}}": "evaluation.judges is given "
    "beside evaluation.judge, expected one of them",
    f"evaluation.judges=[{JUDGE}, {{type: openai, model: m, votes: 0}}]": (
        "evaluation.judges.1.votes is 0, expected greater than 0"
    ),
    f"evaluation.judges=[{JUDGE}, {{type: openai, model: nobody}}]": (
        "evaluation.judges.1.model is 'nobody'"
    ),
    "training={method: qlora, sharding: fsdp, workers: 2}": "training.sharding is 'fsdp', expected "
    "'ddp' for training.method=qlora",
    "training={sharding: fsdp}": "training.sharding is 'fsdp', expected 'ddp' for "
    "training.workers=1, or 2 workers",
    "training={method: full, backend: unsloth}": "training.backend is 'unsloth', expected "
    "'transformers' for full",
    "training.accumulation=3": "training.batch_size is 8, expected a multiple of workers x "
    "accumulation = 3",
    # names
    "name=../x": "name is '../x', expected a-z, 0-9 and -, at most 63 characters, the first not -",
    "name=Demo": "name is 'Demo', expected a-z, 0-9 and -",
    "name=''": "name is '', expected a-z, 0-9 and -",
    "name=-x": "name is '-x', expected a-z, 0-9 and -",
    'name="a\\0b"': r"name is 'a\x00b', expected a-z, 0-9 and -",
    'name="a\\n"': r"name is 'a\n', expected a-z, 0-9 and -",
    f"name={'a' * 300}": f"name is '{'a' * 80}', expected a-z, 0-9 and -",
    # overrides that are none
    "stopping.rounds": "'stopping.rounds' is not an override, expected key=value as in "
    "stopping.rounds=3",
    "=3": "'=3' is not an override, expected key=value",
    "stopping..rounds=3": "'stopping..rounds=3' is not an override, expected key=value",
    ".=3": "'.=3' is not an override, expected key=value",
    "stopping.rounds.x=3": "stopping.rounds is {'x': 3}, expected a valid integer",
    "model.id.x=3": "'model.id.x' cannot be set: 'model.id' is 'some/model', not a section",
    "training.rank=[1": "the value of 'training.rank' is not valid YAML in line 1, column 3: "
    "expected ',' or ']'",
    "training.rank=!!python/object:os.system x": "tags, as !tag, are not supported",
    "training={rank: 1, rank: 2}": "the value of 'training' is not valid YAML in line 1, column "
    "11: key 'rank' stands",
}

# A file that is wrong as a whole, and the line that it gives.
WRONG_FILES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "is empty, expected keys and values"),
    "comments": ("# name: demo\n---\n", "is empty, expected keys and values"),
    "list": ("- a\n- b\n", "holds one list, expected keys and values"),
    "text": ("name demo\n", "holds one str, expected keys and values"),
    "number": ("3", "holds one int, expected keys and values"),
    "tab": (
        "data:\n\tpool: x\n",
        "is not valid YAML in line 2, column 1: found character '\\t' that cannot start any",
    ),
    "brackets": (
        "data: [\n",
        "is not valid YAML in line 2, column 1: expected the node content, but found '<stream ",
    ),
    "two documents": (
        "seed: 1\n---\nseed: 2\n",
        "is not valid YAML in line 2, column 1: but found another document",
    ),
    "a key twice": (
        "seed: 1\nmodel: {id: x}\nseed: 2\n",
        "is not valid YAML in line 3, column 1: key 'seed' stands ",
    ),
    "tag": (
        "seed: !!python/name:os.system x\n",
        "is not valid YAML in line 1, column 7: tags, as !tag, are not supp",
    ),
    "list as a key": (
        "? [a]\n: b\n",
        "is not valid YAML in line 1, column 3: found unhashable key",
    ),
    "unknown alias": (
        "seed: *other\n",
        "is not valid YAML in line 1, column 7: found undefined alias 'other'",
    ),
    "control character": (
        "seed: \x07\n",
        "is not valid YAML: unacceptable character #x0007: special characters",
    ),
    "depth": ("seed: " + "[" * 2000, "is not valid YAML: it is nested too deeply"),
    "digits": ("seed: " + "1" * 5000, "is not valid YAML: Exceeds the limit (4300 digits)"),
    "latin-1": (
        "model: {id: é}\n".encode("latin-1"),
        "is not UTF-8 text: invalid continuation byte at byte 12",
    ),
    "utf-16": ("seed: 1\n".encode("utf-16"), "is not UTF-8 text: invalid start byte at byte 0"),
    "itself": (
        "&a\nseed: *a\nmodel: {id: x}\ndata: {pool: x}\n",
        "seed is {'seed': {...}, 'model'",
    ),
    "no model": (
        "data: {pool: x, references: y}\n",
        "key 'model' is missing, expected section: The language model that",
    ),
    "no model id": (
        "data: {pool: x, references: y}\nmodel:\n",
        "key 'model.id' is missing, expected str: Hugging Face ",
    ),
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ATGEN_DATABASE_URL", raising=False)


def load(tree: Any = SMALLEST, *overrides: str, **settings: Any) -> RunConfig:
    """The configuration in a file that holds `tree`."""
    return load_config(str(write_config(Path.cwd(), tree)), overrides, **settings)


def assert_one_line(*arguments: str, expected: str) -> str:
    """The command ends with status 2 and one line, leaving nothing behind; that line."""
    before = sorted(Path.cwd().iterdir())
    ended = call(*arguments)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.count("\n") == 1, ended.err
    assert expected in ended.err
    assert ended.err.startswith("error: ")
    assert len(ended.err) < 700
    assert "Traceback" not in ended.err
    assert sorted(Path.cwd().iterdir()) == before
    return ended.err


@pytest.mark.parametrize("setting", WRONG_SETTINGS)
def test_a_wrong_setting_is_one_line(setting: str) -> None:
    path = write_config(Path.cwd(), SMALLEST)
    assert_one_line("plan", str(path), setting, expected=WRONG_SETTINGS[setting])


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_wrong_file_is_one_line(case: str) -> None:
    content, expected = WRONG_FILES[case]
    assert_one_line("run", str(write_config(Path.cwd(), content)), expected=expected)


def test_several_mistakes_are_a_line_each() -> None:
    path = write_config(
        Path.cwd(), SMALLEST | {"trainig": {}, "engine": {"backend": "vlm"}, "seed": "x"}
    )
    ended = call(
        "run",
        str(path),
        "evaluation.metrics=[rougel]",
        "selection.parameters={strata: 0, stratta: 1}",
    )
    assert ended.status == 2
    assert ended.err.splitlines() == [
        "error: seed is 'x', expected a valid integer",
        "error: engine.backend is 'vlm', expected 'auto', 'vllm', 'sglang' or 'transformers'; did you mean "
        "'vllm'?",
        "error: selection.parameters.strata is 0, expected greater than 0",
        "error: unknown key 'selection.parameters.stratta'; did you mean 'strata'?",
        "error: evaluation.metrics holds 'rougel', expected a known metric; did you mean 'rougeL'?",
        "error: unknown key 'trainig'; did you mean 'training'?",
    ]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("demmo", "'demmo' is neither a configuration file nor a preset; did you mean 'demo'?"),
        ("zzz.yaml", "'zzz.yaml' is neither a configuration file nor a preset; known: "),
        (".", "configuration '.' cannot be read: Is a directory"),
        ("a" * 300, f"configuration '{'a' * 79}... cannot be read: File name too long"),
    ],
)
def test_an_unknown_source_is_one_line(source: str, expected: str) -> None:
    assert_one_line("plan", source, expected=expected)


# ---- what is right


def test_values_mean_what_they_look_like() -> None:
    config = load(
        SMALLEST,
        "training.learning_rate=1e-4",
        "training.weight_decay=5E-3",
        "training.epochs=2",
        "training.warm_start=true",
        "evaluation.zero_shot=False",
        "data.duplicates.action=off",
        "data.references=[answer, answers.all]",
        "data.test=null",
        "data.subset='2024'",
        "data.input=paper.abstract",
        "model.revision=0123456",
        "prompt.system=a=b, c=d",
        "prompt.response_start=12:30",
        "prompt.template=Q {{ input }} = ",
        "selection.parameters={strata: 3}",
        "engine.options.gpu_memory_utilization=1e-1",
        "engine.options.flags={a: [1, -2, .5, null, true, yes, 2024-01-01]}",
        "stopping.labels=",
        "seed=0",
    )
    assert config.training.learning_rate == 1e-4
    assert config.training.weight_decay == 5e-3
    assert (config.training.epochs, config.training.warm_start) == (2.0, True)
    assert config.evaluation.zero_shot is False
    assert config.data.duplicates.action == "off"
    assert config.data.references == ["answer", "answers.all"]
    assert (config.data.test, config.data.subset, config.data.input) == (
        None,
        "2024",
        "paper.abstract",
    )
    assert config.model.revision == "0123456"
    assert config.prompt.system == "a=b, c=d"
    assert config.prompt.response_start == "12:30"
    assert config.selection.parameters == {"strata": 3}
    flags = {"a": [1, -2, 0.5, None, True, "yes", "2024-01-01"]}
    assert config.engine.options == {"gpu_memory_utilization": 0.1, "flags": flags}
    assert (config.stopping.labels, config.seed) == (None, 0)


def test_a_template_is_text_in_quotes() -> None:
    assert load(SMALLEST, 'prompt.template="{{ input }}\\n"').prompt.template == "{{ input }}\n"
    with pytest.raises(
        UserError, match=r"not valid YAML.*; text with special characters goes in quotes"
    ):
        load(SMALLEST, "prompt.template={{ input }}")


def test_later_overrides_win_and_leave_the_rest() -> None:
    tree = SMALLEST | {"stopping": {"rounds": 7, "labels": 90}, "training": None}
    config = load(
        tree, "stopping.rounds=8", "stopping.rounds=9", "training.rank=4", "engine.options.a.b=1"
    )
    assert (config.stopping.rounds, config.stopping.labels, config.training.rank) == (9, 90, 4)
    assert config.engine.options == {"a": {"b": 1}}


def test_a_section_whose_keys_are_commented_out_has_its_defaults() -> None:
    config = load(
        "data:\n  pool: x\n  references: y\nmodel:\n  id: x\ntraining:\n#  rank: 3\nstopping:\n  "
        "plateau:\n"
    )
    assert config.training == RunConfig.model_validate(SMALLEST).training
    assert config.stopping.plateau is None


def test_a_file_may_have_a_byte_order_mark_anchors_and_merges() -> None:
    text = "\ufeffdata: {pool: x, references: y}\nmodel: {id: ü}\nx-shared: 1\n"
    with pytest.raises(UserError, match=r"^unknown key 'x-shared'"):
        load(text)
    first = "selection: &s {count: 3}\n" + text.removeprefix("\ufeff").replace("x-shared: 1\n", "")
    config = load(
        first
        + "stopping:\n  plateau: &p {patience: 1}\n  rounds: 2\nevaluation: {dev_fraction: 0.2}\n"
    )
    assert (config.selection.count, config.model.id, config.stopping.rounds) == (3, "ü", 2)
    merged = load(
        "data: &d {pool: x, references: y}\nmodel: {id: m}\nengine: {options: {a: {<<: *d, pool: "
        "z}}}\n"
    )
    assert merged.engine.options == {"a": {"pool": "z", "references": "y"}}


def test_options_go_before_overrides_and_overrides_before_the_file() -> None:
    tree = SMALLEST | {"name": "file", "storage": "file-storage"}
    assert load(tree).name == "file"
    config = load(tree, "name=override", "storage=elsewhere")
    assert (config.name, config.storage) == ("override", "elsewhere")
    config = load(tree, "name=override", name="option", storage="option-storage")
    assert (config.name, config.storage) == ("option", "option-storage")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("My Task.v2.yaml", "my-task-v2"),
        ("sum_of_all.yaml", "sum-of-all"),
        ("-dash.yaml", "dash"),
        ("x" * 100 + ".yaml", "x" * 63),
        ("a" * 62 + " b.yaml", "a" * 62 + "-"),
        ("要約.yaml", "run"),
        ("Zusammenfassung größer.yaml", "zusammenfassung-gr-er"),
        (".yaml", "yaml"),
    ],
)
def test_a_run_is_named_after_its_file(file: str, name: str) -> None:
    assert load_config(str(write_config(Path.cwd(), SMALLEST, file))).name == name
    check_run_name(name)


def test_presets_are_valid_and_give_way_to_files() -> None:
    assert "demo" in list_presets()
    for preset in list_presets():
        assert load_config(preset).name == preset.replace("_", "-")
    Path("demo").mkdir()  # a folder is no configuration
    assert load_config("demo").model.id.startswith("package://")
    Path("demo").rmdir()
    write_config(Path.cwd(), SMALLEST, "demo")
    assert load_config("demo").model.id == "some/model"


def test_what_a_run_writes_down_starts_the_same_run() -> None:
    config = load(
        SMALLEST,
        "training.learning_rate=1e-07",
        "data.duplicates.action=off",
        "data.subset='010'",
        "prompt.system='yes'",
        "prompt.response_start='1e3'",
        "selection={strategy: huds, parameters: {strata: 3}}",
        f"database_url={CANARY}",
        "name=again",
    )
    text = dump_yaml(dump_config(config))
    assert load(text, f"database_url={CANARY}") == config
    assert yaml.safe_load(text) == dump_config(config)  # other programs read it by YAML 1.1


# ---- secrets


@pytest.mark.parametrize(
    "arguments",
    [
        [f"database_url=[{CANARY}]"],
        [f"database_url={{a: {CANARY}}}"],
        [f"database_url={{{CANARY}: 1}}"],
        [f'database_url="{CANARY}'],
        [f"database_url=[{CANARY}"],
        [f"database_url={CANARY}", "database_url.x=1"],
        [f"database_url={CANARY}", "database_url.x.y=1"],
        [f"database_urll={CANARY}"],
        [f"database_url:{CANARY}"],
        [f"database_url.url={CANARY}"],
        [CANARY],
        [f"{CANARY}?sslmode=require"],
        [f"={CANARY}"],
        [f"database_url={CANARY}", "seed=x"],
        [f"database_url={CANARY}", "data.references=null"],
        [f"database_url={CANARY}", "training.accumulation=3"],
    ],
)
def test_no_error_shows_the_database_url(arguments: list[str]) -> None:
    path = write_config(Path.cwd(), SMALLEST)
    assert "canary" not in assert_one_line("plan", str(path), *arguments, expected="error: ")


@pytest.mark.parametrize(
    "line",
    [
        f'database_url: "{CANARY}',
        f"database_url: [{CANARY}",
        f"database_url: {CANARY}: x",
        f"database_url: {CANARY}\nseed: x",
        f"database_url:\n  - {CANARY}",
        f"database_url: {CANARY}\ndatabase_url: {CANARY}",
        f"database_url {CANARY}",
        f"seed:\n  database_url: {CANARY}",
        f"engine:\n  database_url: {CANARY}",
        f"storage: [{{database_url: {CANARY}}}]",
    ],
)
def test_no_wrong_file_shows_the_database_url(line: str) -> None:
    path = write_config(Path.cwd(), yaml.safe_dump(SMALLEST) + line + "\n")
    assert "canary" not in assert_one_line("plan", str(path), expected="error: ")


def test_nothing_made_of_a_configuration_shows_the_database_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = load(SMALLEST, f"database_url={CANARY}")
    assert config.database_url is not None
    assert config.database_url.get_secret_value() == CANARY
    shown = [
        repr(config),
        str(config),
        repr(dump_config(config)),
        config.model_dump_json(),
        repr(config.model_dump()),
    ]
    with pytest.raises(ValidationError) as caught:
        RunConfig.model_validate(
            SMALLEST | {"database_url": CANARY, "seed": CANARY, "storage": [CANARY]}
        )
    shown += [str(caught.value), repr(caught.value)]
    with pytest.raises(ValidationError) as caught:
        RunConfig.model_validate(
            {"database_url": CANARY, "data": {"pool": "x"}, "model": {"id": "x"}}
        )
    assert all("canary" not in text for text in [*shown, str(caught.value), repr(caught.value)])


def test_the_database_url_of_the_environment_yields_to_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ATGEN_DATABASE_URL", CANARY)
    assert load().database_url == SecretStr(CANARY)
    assert load(SMALLEST, "database_url=sqlite:///other.db").database_url == SecretStr(
        "sqlite:///other.db"
    )
    assert load(SMALLEST, "database_url=null").database_url is None
    monkeypatch.setenv("ATGEN_DATABASE_URL", "")
    assert load().database_url is None


# ---- the reference


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of the tree."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if field.discriminator:
            for kind in get_args(field.annotation) if "[" not in prefix else ():
                if kind is type(None):
                    continue
                tag = get_args(kind.model_fields["type"].annotation)[0]
                yield from fields(kind, f"{prefix}{name}[{tag}].")
            continue
        kinds = [field.annotation, *get_args(field.annotation)]
        item = {"list": "[]", "dict": ".*"}.get(str(field.annotation).partition("[")[0], "")
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from fields(kind, f"{prefix}{name}{item}.")


def test_every_setting_is_explained_once() -> None:
    rows = list(explain_config())
    assert [row["key"] for row in rows] == list(fields(RunConfig))
    assert len(rows) > 90
    for row in rows:
        assert len(row["description"].split()) >= 2, row
        assert row["type"], row
        assert row["default"], row
        assert "Annotated" not in row["type"], row
        assert "\n" not in "".join(row.values()), row


def test_every_strategy_is_explained_with_its_parameters() -> None:
    strategies = {strategy["name"]: strategy for strategy in explain_strategies()}
    assert list(strategies) == sorted(STRATEGIES)
    for name, strategy in strategies.items():
        assert len(strategy["description"].split()) >= 2
        assert [row["key"] for row in strategy["parameters"]] == list(
            fields(STRATEGIES[name].parameters)
        )
        assert all(len(row["description"].split()) >= 2 for row in strategy["parameters"]), strategy


def test_types_and_defaults_are_shown_as_in_yaml() -> None:
    rows = {row["key"]: (row["type"], row["default"]) for row in explain_config()}
    assert rows["data.limit"] == ("int > 0 | null", "null")
    assert rows["data.duplicates.threshold"] == ("float >= 0, <= 1", "0.9")
    assert rows["data.duplicates.action"] == ("exclude | mark | off", "exclude")
    assert rows["data.references"] == ("str | list of str | null", "null")
    assert rows["prompt.template"] == ("str", "'{{ input }}'")
    assert rows["model.id"] == ("str", "(required)")
    assert rows["database_url"] == ("secret | null", "null")
    assert rows["engine.options"] == ("dict of any", "{}")
    assert rows["stopping.plateau"] == ("section | null", "null")
    assert rows["stopping.dev_target"] == ("dict of float", "{}")
    assert rows["training"] == ("section", "(as below)")
    assert rows["evaluation.metrics"][1] == "null"


@pytest.mark.parametrize("method", ["full", "dora"])
def test_replicas_are_not_asked_for_what_they_cannot_add_to_their_model(method: str) -> None:
    with pytest.raises(
        UserError, match=f"training.method is '{method}', expected lora, rslora or qlora"
    ):
        load(SMALLEST, "model.host=serve", f"training.method={method}")
    assert load(SMALLEST, "model.host=serve", "training.method=rslora").training.method == "rslora"
