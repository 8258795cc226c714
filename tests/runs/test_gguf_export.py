"""`atgen-ray runs export --what gguf`: a file for llama.cpp, and a Modelfile for Ollama."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from helpers.command_line import call
from helpers.tuned_run import (
    PROMPT,
    answer,
    export,
    load,
    make_small_model,
    make_tuned_run,
)
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from atgen_ray.config import ModelConfig, PromptConfig
from atgen_ray.core.errors import UserError
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.runs.exporting import gguf_file
from atgen_ray.runs.exporting.gguf_file import check_convertible, write_gguf
from atgen_ray.runs.exporting.gguf_vocabulary import find_cut
from atgen_ray.runs.exporting.merging import (
    save_merged,
)
from atgen_ray.runs.exporting.modelfile import write_modelfile


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "small"
    make_small_model(folder)
    return str(folder)


@pytest.fixture(scope="module")
def runs(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with the finished run `sort`, which nobody may change but its list of exports."""
    folder = tmp_path_factory.mktemp("exported")
    make_tuned_run(str(folder / "atgen-runs"), model)
    return folder


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ATGEN_DATABASE_URL", raising=False)


def test_a_gguf_file_answers_as_the_merged_model(runs: Path) -> None:
    lines = export(runs, "--what", "gguf")
    folder = Path("sort-gguf")
    assert sorted(path.name for path in folder.iterdir()) == ["Modelfile", "README.md", "sort.gguf"]
    assert lines[-1] == "3 files: sort-gguf"
    export(runs, "--what", "merged")
    tokenizer = AutoTokenizer.from_pretrained("sort-merged")
    read = load(folder, gguf_file="sort.gguf")
    found = answer(read, tokenizer, "Sort: red cat 17")
    assert torch.allclose(found, answer(load("sort-merged"), tokenizer, "Sort: red cat 17"))
    said = re.fullmatch(r"The GGUF file was read back .* differ by at most (\S+) and .*", lines[1])
    assert said is not None, lines
    assert float(said[1]) < 1e-3
    assert lines[1] in (folder / "README.md").read_text()
    fields = GGUFReader(folder / "sort.gguf").fields
    assert fields["general.architecture"].contents() == "llama"
    names = fields["tokenizer.ggml.tokens"].contents()
    pads = [f"[PAD{id_}]" for id_ in range(len(tokenizer), len(tokenizer) + 3)]
    assert names == [*tokenizer.convert_ids_to_tokens(range(len(tokenizer))), *pads]
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert fields["tokenizer.chat_template"].contents() == tokenizer.chat_template
    assert not fields["tokenizer.ggml.add_bos_token"].contents()


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_a_qwen_is_written_too(kind: str) -> None:
    """With biases (Qwen 2), with norms of queries and keys and heads of their own width (Qwen 3)."""
    make_small_model(Path("whole"), kind, "float32")
    model = ModelConfig(id="whole", max_prompt_tokens=80)
    check_convertible(model)
    pairs = [("one two", "three four"), ("red", "blue green")]
    merged = save_merged(model, PromptConfig(), Path("whole"), pairs, Path("saved"))
    assert merged.rounding is not None
    assert merged.rounding.largest < 1e-5
    place = Path.cwd() / "x.gguf"
    found = write_gguf(model, PromptConfig(), merged, Path("saved"), place, "small")
    assert found is not None
    assert found.largest < 1e-3


def test_a_file_that_answers_otherwise_is_refused(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries in transformers' order of rows, as a plain copy of the weights would have them."""
    monkeypatch.setitem(gguf_file.ARCHITECTURES, "llama", False)
    ended = call("runs", "export", "sort", "--storage", f"{runs}/atgen-runs", "--what", "gguf")
    assert ended.status == 2
    assert ended.err.startswith(
        "error: the GGUF file does not answer as the merged model does: log-probabilities differ "
    )
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "gpt_neox"}, "of model.id its architecture is gpt_neox"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
            "of model.id its positions are scaled (linear)",
        ),
    ],
)
def test_other_models_are_sent_to_llama_cpps_own_converter(
    change: dict[str, Any], reason: str, model: str
) -> None:
    folder = Path("other")
    folder.mkdir()
    tree = json.loads((Path(model) / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(tree | change))
    with pytest.raises(UserError) as raised:
        check_convertible(ModelConfig(id=str(folder.absolute())))
    assert str(raised.value) == (
        f"--what is 'gguf', but {reason}, expected one of llama, qwen2, qwen3 without scaling: "
        f"take --what merged, and run llama.cpp's convert_hf_to_gguf.py on it"
    )


def test_a_tokenizer_that_cuts_in_an_unknown_way_is_refused(model: str) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    assert find_cut(tokenizer) == "gpt-2"
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    assert find_cut(tokenizer) == "smollm"
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UserError, match="tokenizer is not one of gpt-2, smollm, llama-bpe, qwen2"):
        find_cut(tokenizer)


def test_a_modelfile_makes_the_prompt_of_the_run(model: str) -> None:
    prompt = PromptConfig.model_validate(
        PROMPT | {"few_shot": [{"input": 'a {{ """', "output": "b"}]}
    )
    prompts = PromptBuilder(AutoTokenizer.from_pretrained(model), prompt, 200)
    text = write_modelfile("x.gguf", prompts, ModelConfig(id=model, max_prompt_tokens=200))
    assert "FROM ./x.gguf\n" in text
    assert 'PARAMETER stop "<|im_end|>"' in text
    assert "PARAMETER temperature 0\n" in text
    template = text.partition('TEMPLATE """')[2].partition('"""')[0]
    given, _, own = template.removesuffix("{{ end }}").partition("{{ else }}")
    assert given == (
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n<|im_start|>user\n"
        "{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert '{{ "{{" }} {{ "\\"\\"\\"" }}' in own
    plain = own.replace('{{ "{{" }}', "{{").replace('{{ "\\"\\"\\"" }}', '"""')
    assert plain.replace("{{ .Prompt }}", "Sort: x y") == prompts.render("Sort: x y")
