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
from helpers.command_line import call

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


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_small_tokenizer() -> Any:
    """Byte-level BPE of three hundred tokens with a chat template, as GPT-2's is made."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS.values(), "You sort words."], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special[0],
        unk_token=special[0],
        eos_token=special[2],
        pad_token=special[2],
        chat_template=CHAT_TEMPLATE,
    )


def make_small_model(folder: Path, kind: str = "llama", dtype: str = "bfloat16") -> None:
    """A model of two layers with random weights, larger than those that training begins with."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = make_small_tokenizer()
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer) + 3,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=128 if kind == "qwen3" else 16,  # which Qwen 3 has of its own
        max_position_embeddings=512,
        tie_word_embeddings=kind == "llama",
        initializer_range=0.1,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: Any = AutoModelForCausalLM.from_config(config)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.data = torch.randn_like(weight)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


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


def export(runs: Path, *arguments: str) -> list[str]:
    """The lines that `runs export` of the run `sort` prints; its storage is below `runs`."""
    ended = call("runs", "export", "sort", "--storage", str(runs / "atgen-runs"), *arguments)
    assert (ended.status, ended.err) == (0, "")
    return ended.out.splitlines()


def load(folder: Path | str, **settings: Any) -> Any:
    """A model in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **settings)
    return model.eval()


def answer(model: Any, tokenizer: Any, text: str) -> Any:
    """The logits of a model after a text."""
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([tokenizer.encode(text)])).logits


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
