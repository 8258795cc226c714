"""Cards of a model and of a data set, in the Hugging Face format, filled from a run.

What a run does not know (licence, languages, intended use) is left to whoever publishes: the card
says so, and nothing is guessed.
"""

import json
from collections.abc import Sequence
from typing import Any

from atgen_ray.runs.exporting.facts import RunFacts

TAGS = ["active-learning", "atgen-ray"]
LICENCE = (
    "**Not stated.** The run does not know it. Set `license` at the top of this file, after a look "
    "at the licences of {of}."
)
_USE = {
    "adapter": """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({base}, dtype="float32")
model = PeftModel.from_pretrained(base, "FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```

It was evaluated in float32: 16 bits round part of a small adapter away.""",
    "merged": """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```""",
    "gguf": """```sh
ollama create {name} -f Modelfile
llama-cli -m {name}.gguf
```""",
}


def write_model_card(facts: RunFacts, kind: str, notes: Sequence[str] = ()) -> str:
    """Return the card of the model after the round of `facts`.

    Args:
        kind: adapter, merged or gguf.
        notes: lines on how the model was written, such as the loss of rounding.
    """
    use = _USE[kind].format(base=json.dumps(facts.base), name=facts.name)
    parts = [
        _write_head(facts, kind),
        f"# {facts.name}",
        f"{_write_origin(facts, kind)}",
        "## Use",
        use,
        _write_prompt(facts),
        *(["## How it was written", *notes] if notes else []),
        "## Labels",
        _write_labels(facts),
        "## Results",
        _write_curve(facts),
        "## Training",
        _write_training(facts),
        "## Licence",
        LICENCE.format(of=f"`{facts.base}` and of the data"),
    ]
    return "\n\n".join(parts) + "\n"


def write_dataset_card(facts: RunFacts, files: dict[str, str]) -> str:
    """Return the card of the labels that the run has; `files` are those beside it, by the name of
    their configuration.
    """
    from huggingface_hub import DatasetCardData

    data = DatasetCardData(
        pretty_name=facts.name,
        task_categories=["text-generation"],
        tags=TAGS,
        configs=[{"config_name": name, "data_files": file} for name, file in files.items()],
    )
    chat = "\n".join(f"- `{file}`: configuration `{name}`" for name, file in files.items())
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {facts.name}",
        f"Labels for examples of `{facts.pool}`, which the run `{facts.name}` of atgen-ray chose "
        f"and had labelled. The examples were chosen, not drawn: they are no sample of the pool."
        + (f" To that pool {facts.added:,} examples were added later." if facts.added else ""),
        chat,
        "`id` is that of the example in the run, `input` the whole user turn, `text` its label, "
        "`annotator` who gave it (people by number), `dollars` what it cost, `round` when it was "
        "chosen, and `run` the run that bought it.",
        "## Labels",
        _write_labels(facts),
        "## Licence",
        LICENCE.format(of=f"`{facts.pool}` and of what labelled it"),
    ]
    return "\n\n".join(parts) + "\n"


def _write_head(facts: RunFacts, kind: str) -> str:
    """Return the YAML front matter of a model card."""
    from huggingface_hub import EvalResult, ModelCardData

    last = facts.curve[-1] if facts.curve and facts.curve[-1]["round"] == facts.round else {}
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=facts.test,
            dataset_name=facts.test,
            dataset_split=facts.config.data.test_split,
            metric_type=name,
            metric_value=value["mean"],
        )
        for name, value in (last.get("metrics") or {}).items()
        if facts.test is not None and value["mean"] is not None
    ]
    data = ModelCardData(
        base_model=facts.base_id,
        library_name={"adapter": "peft", "merged": "transformers", "gguf": "gguf"}[kind],
        pipeline_tag="text-generation",
        tags=[*TAGS, *(["lora"] if facts.config.training.method != "full" else [])],
        model_name=facts.name,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _write_origin(facts: RunFacts, kind: str) -> str:
    what = {
        "adapter": f"An adapter (peft) for `{facts.base}`",
        "merged": f"`{facts.base}`, fine-tuned, with the adapter in its weights",
        "gguf": f"`{facts.base}`, fine-tuned, as a GGUF file",
    }[kind]
    return (
        f"{what}. It was trained on {_count(facts.labels - facts.held_out, 'label')} that active "
        f"learning chose from `{facts.pool}`: round {facts.round} of the run `{facts.name}` of "
        f"atgen-ray."
    )


def _write_prompt(facts: RunFacts) -> str:
    """Return how the prompts of the run were made, which the model expects."""
    prompt = facts.config.prompt
    lines = [
        "The tokenizer's chat template makes the prompt. The user turn was "
        f"`{_inline(prompt.template)}`."
    ]
    if prompt.system is not None:
        lines.append(f"The system turn was `{_inline(prompt.system)}`.")
    if prompt.few_shot:
        lines.append(f"{len(prompt.few_shot)} solved examples stood before the question.")
    if prompt.response_start:
        lines.append(f"The answer began with `{_inline(prompt.response_start)}`.")
    model = facts.config.model
    lines.append(
        f"Prompts had at most {model.max_prompt_tokens} tokens, answers "
        f"{model.max_new_tokens}; answers were greedy."
    )
    return " ".join(lines)


def _write_labels(facts: RunFacts) -> str:
    strategies: dict[str, list[int]] = {}
    for round, strategy in facts.strategies.items():
        strategies.setdefault(strategy, []).append(round)
    rows = [f"| {_cell(name)} | {count} |" for name, count in facts.annotators.items()]
    chosen = ", ".join(f"`{name}` ({_span(rounds)})" for name, rounds in strategies.items())
    lines = [f"{_count(facts.labels, 'label')} in {_count(facts.round, 'round')}."]
    lines += [f"Strategies: {chosen}."] if chosen else []
    if facts.held_out:
        lines.append(f"{facts.held_out} of the labels were held out of training (dev split).")
    table = ["| annotator | labels |", "| --- | ---: |", *rows] if rows else []
    return " ".join(lines) + ("\n\n" + "\n".join(table) if table else "")


def _write_curve(facts: RunFacts) -> str:
    """Return the learning curve as a table, with the interval of each mean."""
    names = list(dict.fromkeys(name for row in facts.curve for name in row["metrics"] or {}))
    if not names:
        return "The run has no test set, so nothing was measured on one."
    lines = [
        f"| round | labels | dollars | {' | '.join(map(_cell, names))} |",
        f"| ---: | ---: | ---: | {' | '.join('---:' for _ in names)} |",
    ]
    for row in facts.curve:
        cells = [_estimate((row["metrics"] or {}).get(name)) for name in names]
        head = f"| {row['round']} | {row['labels']} | {row['dollars']:.2f} |"
        lines.append(f"{head} {' | '.join(cells)} |")
    count = max(
        (value["count"] for row in facts.curve for value in (row["metrics"] or {}).values()),
        default=0,
    )
    test = f"`{facts.test}`" if facts.test else "the test set"
    confidence = facts.config.evaluation.confidence
    return (
        f"Means over {_count(count, 'example')} of {test} with their {confidence:.0%} intervals. "
        f"Round 0 is the untuned model.\n\n" + "\n".join(lines)
    )


def _write_training(facts: RunFacts) -> str:
    training = facts.config.training
    settings: dict[str, object] = {
        "method": training.method,
        **({} if training.method == "full" else {"rank": training.rank, "alpha": training.alpha}),
        "epochs": training.epochs,
        "learning rate": training.learning_rate,
        "batch size": training.batch_size,
        "seed": facts.config.seed,
    }
    known = ("atgen-ray", "torch", "transformers", "peft", "ray")
    settings |= {name: facts.versions[name] for name in known if name in facts.versions}
    rows = [f"| {_cell(name)} | {_cell(value)} |" for name, value in settings.items()]
    return "\n".join(["| setting | value |", "| --- | --- |", *rows])


def _estimate(value: dict[str, Any] | None) -> str:
    if value is None or value["mean"] is None:
        return ""
    shown = f"{value['mean']:.3f}"
    if value.get("low") is None or value.get("high") is None:
        return shown
    return f"{shown} [{value['low']:.3f}, {value['high']:.3f}]"


def _span(rounds: Sequence[int]) -> str:
    if len(rounds) == 1:
        return f"round {rounds[0]}"
    return f"rounds {rounds[0]} to {rounds[-1]}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _cell(value: object) -> str:
    """Return a value for a cell of a Markdown table."""
    return _inline(str(value)).replace("|", "\\|")


def _inline(text: str) -> str:
    """Return a text for one line of Markdown, within backticks or without."""
    return " ".join(text.replace("`", "'").split())
