"""The vocabulary of a tokenizer, as llama.cpp reads it from a GGUF file."""

import json
from typing import TYPE_CHECKING, Any

from atgen_ray.core.errors import UserError
from atgen_ray.models.prompts import PromptBuilder

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerBase

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
_WORDS = {**_BYTES, "use_regex": True}
_LETTERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# How texts are cut into words before bytes are joined, by llama.cpp's name for it; and whether a
# word that is a token is taken whole.
_CUTS: dict[str, tuple[list[dict[str, Any]], bool]] = {
    "gpt-2": ([_WORDS], False),
    "smollm": ([{"type": "Digits", "individual_digits": True}, _WORDS], False),
    "llama-bpe": ([{"type": "Split", "pattern": {"Regex": _LETTERS % "{1,3}"}}, _BYTES], True),
    "qwen2": ([{"type": "Split", "pattern": {"Regex": _LETTERS % ""}}, _BYTES], False),
}


def find_cut(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return llama.cpp's name for how the tokenizer cuts texts.

    Raises:
        UserError: it is not byte-level BPE, or cuts in a way that is not known here.
    """
    tree = _read(tokenizer)
    if tree["model"]["type"] == "BPE" and not tree["model"].get("byte_fallback"):
        parts = tree["pre_tokenizer"] or {}
        found = parts.get("pretokenizers", [parts])
        whole = bool(tree["model"].get("ignore_merges"))
        normal = (tree["normalizer"] or {"type": None})["type"]
        for name, (expected, ignores) in _CUTS.items():
            same = len(found) == len(expected) and all(
                one.items() <= other.items() for one, other in zip(expected, found, strict=True)
            )
            if same and whole == ignores and normal in (None, "NFC"):
                return name
    raise UserError(
        "--what is 'gguf', but the model's tokenizer is not one of "
        f"{', '.join(_CUTS)}: take --what merged, and run llama.cpp's convert_hf_to_gguf.py on it"
    )


def write_vocabulary(writer: "GGUFWriter", prompts: PromptBuilder, size: int) -> None:
    """Enter the tokenizer of `prompts`, with as many tokens as the model has (`size`).

    Raises:
        UserError: the tokenizer has more, or is of an unknown kind.
    """
    from gguf import TokenType

    tokenizer = prompts.tokenizer
    names = {id_: token for token, id_ in tokenizer.get_vocab().items()}
    if max(names) >= size:
        raise UserError(
            f"--what is 'gguf', but the model has {size} tokens and its tokenizer {max(names) + 1}"
        )
    added = tokenizer.added_tokens_decoder
    tokens = [names.get(id_, f"[PAD{id_}]") for id_ in range(size)]
    kinds = [
        TokenType.UNUSED
        if id_ not in names
        else TokenType.NORMAL
        if id_ not in added
        else TokenType.CONTROL
        if added[id_].special
        else TokenType.USER_DEFINED
        for id_ in range(size)
    ]
    merges = _read(tokenizer)["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(find_cut(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    _write_special(writer, prompts)


def _write_special(writer: "GGUFWriter", prompts: PromptBuilder) -> None:
    """Enter the special tokens and the chat template. Answers end where the run's answers do."""
    tokenizer = prompts.tokenizer
    end = prompts.stop_ids
    writer.add_eos_token_id(end[-1])
    writer.add_eot_token_id(end[0])
    for id_, enter in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
    ):
        if isinstance(id_, int):
            enter(id_)
    # Where there is a chat template, it writes the beginning of the sequence itself, if any.
    writer.add_add_bos_token(prompts.adds_bos)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _read(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """Return the tree of a fast tokenizer, as tokenizer.json has it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError("--what is 'gguf', but the model's tokenizer has no tokenizer.json")
    tree: dict[str, Any] = json.loads(backend.to_str())
    return tree
