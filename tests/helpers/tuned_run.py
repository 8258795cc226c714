"""A run with labels, a learning curve and an adapter, made without Ray: what an export reads."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa

from atgen_ray.core.records import POOL_SCHEMA, Annotation
from atgen_ray.store.journal import open_journal
from atgen_ray.store.layout import round_folder
from atgen_ray.store.owner import ProcessIdentity
from atgen_ray.store.run_folder import RunFolder

TEXTS = {
    "e1": "Sort: red blue green",
    "e2": "Sort: cat dog house",
    "e3": 'Sort: "tree", river\nstone',
    "e4": "Sort: cloud light night",
}
LABELS = {
    "e1": ("blue green red", "dataset"),
    "e2": ("cat dog house", "human/anna"),
    "e3": ("river stone tree", "human/bert"),
    "e4": ("cloud light night", "human/anna"),
}
PROMPT = {"template": "Sort: {{ input }}", "system": "You sort words."}


def make_bfloat16_model(tiny_model: str, folder: Path) -> None:
    """The tiny model in bfloat16, as most checkpoints are."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)


def make_adapter(model: str, folder: Path, scale: float = 0.02) -> None:
    """An adapter with random weights, and the tokenizer beside it, as training leaves it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tuned: Any = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    for weight in tuned.parameters():
        if weight.requires_grad:
            weight.data = scale * torch.randn_like(weight)
    tuned.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)


def make_tuned_run(
    storage: str, model: str, /, rounds: int = 2, name: str = "sort", **settings: Any
) -> None:
    """A finished run of `rounds` rounds, each with two labels and an adapter of its own."""
    config = {
        "name": name,
        "data": {"pool": "/home/someone/secret/pool.jsonl", "test": "org/words", "input": "words"},
        "prompt": PROMPT,
        "model": {"id": model, "max_prompt_tokens": 80, "max_new_tokens": 8},
        "selection": {"strategy": "huds", "count": 2, "first": {"strategy": "random"}},
    } | settings
    journal = open_journal(storage)
    journal.create_run(name, config, "")
    lease = journal.acquire(name, ProcessIdentity("controller", pid=os.getpid()), 60)
    folder = RunFolder(storage, name)
    rows = [
        {"id": id_, "row": at, "text": text, "content": id_}
        for at, (id_, text) in enumerate(TEXTS.items())
    ]
    folder.write_table("pool.parquet", pa.Table.from_pylist(rows, POOL_SCHEMA))
    folder.write_table("test.parquet", pa.Table.from_pylist([], POOL_SCHEMA))
    labels = [Annotation(id_, *label, 0.25) for id_, label in LABELS.items()]
    for round in range(1, rounds + 1):
        journal.record_annotations(lease, round, labels[2 * round - 2 : 2 * round])
        with folder.publish(f"{round_folder(round)}/adapter") as made:
            make_adapter(model, made, 0.02 * round)
        journal.append(lease, "step", round, "training", {"rows": 2}, 1.0)
    curve = [
        {
            "round": round,
            "labels": 2 * round,
            "dollars": 0.5 * round,
            "seconds": {"training": 1.0},
            "metrics": {
                "rougeL": {"mean": 0.25 * round, "low": 0.1, "high": 0.9, "count": 6},
            },
        }
        for round in range(rounds + 1)
    ]
    folder.write_json("metrics.json", curve)
    folder.write_json("versions.json", {"python": "3.11", "torch": "2.13.0", "attempts": []})
    journal.append(lease, "finished", payload={"message": "all rounds done"})
    journal.set_status(lease, "finished")
    lease.release()
    journal.close()
