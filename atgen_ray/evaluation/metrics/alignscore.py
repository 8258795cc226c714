"""AlignScore (Zha et al., ACL 2023): how far a source supports the sentences of an answer, by the
published checkpoint.

As in the published `nli_sp` mode, the source is cut into chunks of about 350 words and the answer
into sentences. A sentence has the probability of "aligned" with its best chunk, and the answer the
mean of its sentences. Sentences are found by punctuation, where the original uses NLTK's model.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import file_digest
from pathlib import Path
from typing import Any

from atgen_ray.core.checkpoints import resolve_checkpoint
from atgen_ray.core.errors import UserError
from atgen_ray.evaluation.metric import Case, Resources
from atgen_ray.text.support import split_sentences

BATCH = 16
CHUNK_WORDS = 350
LONGEST = 512
# SHA-256 of what the authors published as yzha/AlignScore: AlignScore-base.ckpt and -large.ckpt.
PUBLISHED = frozenset(
    {
        "6aedb637f0596ab29baef91e94466a57f032e02feea654978518919fe0981607",
        "ff4336312b377edcbcdad5694a2d09d73dc4225422c0422d810aa7e78485e32d",
    }
)


def score_alignment(cases: Sequence[Case], resources: Resources) -> list[float]:
    """Return 0 to 1 for each case; 0 for an answer without words."""
    config = resources.models.alignscore
    pairs = []
    spans = []
    for case in cases:
        chunks = cut_source(split_sentences(case.source))
        sentences = split_sentences(case.prediction)
        spans.append((len(chunks), len(sentences)))
        pairs += [(chunk, sentence) for chunk in chunks for sentence in sentences]
    scores = iter(score_pairs(pairs, config.checkpoint, config.base))
    found = []
    for chunks_count, count in spans:
        table = [[next(scores) for _ in range(count)] for _ in range(chunks_count)]
        found.append(sum(map(max, zip(*table, strict=True))) / count if count else 0.0)
    return found


def cut_source(sentences: Sequence[str]) -> list[str]:
    """Return runs of about CHUNK_WORDS words, with the same number of sentences in each."""
    words = sum(len(sentence.split()) for sentence in sentences)
    size = max(1, len(sentences) // (words // CHUNK_WORDS + 1))
    return [" ".join(sentences[at : at + size]) for at in range(0, len(sentences), size)] or [""]


def score_pairs(pairs: Sequence[tuple[str, str]], checkpoint: str, base: str) -> list[float]:
    """Return the probability of "aligned" for each (source, sentence), by the three-way head."""
    import torch

    encoder, head, tokenizer = _load(checkpoint, base)
    device = next(encoder.parameters()).device
    scores: list[float] = []
    for start in range(0, len(pairs), BATCH):
        sources, sentences = zip(*pairs[start : start + BATCH], strict=True)
        longest = min(LONGEST, tokenizer.model_max_length)
        encoded = tokenizer(
            list(sources),
            list(sentences),
            padding=True,
            truncation="only_first",
            max_length=longest,
            return_tensors="pt",
        ).to(device)
        with torch.inference_mode():
            scores += torch.softmax(head(encoder(**encoded).pooler_output), -1)[:, 0].tolist()
    return scores


@lru_cache(maxsize=1)
def _load(checkpoint: str, base: str) -> tuple[Any, Any, Any]:
    """Return encoder, classification head and tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    weights = read_weights(checkpoint)
    source = resolve_checkpoint(base, "evaluation.models.alignscore.base", weights=False)
    encoder = AutoModel.from_config(AutoConfig.from_pretrained(source))
    head = torch.nn.Linear(encoder.config.hidden_size, 3)
    prefix = "base_model."
    # Not strict: the checkpoint also holds heads that AlignScore's training used.
    missing, _ = encoder.load_state_dict(
        {
            name.removeprefix(prefix): tensor
            for name, tensor in weights.items()
            if name.startswith(prefix)
        },
        strict=False,
    )
    if missing:
        raise _refuse(checkpoint, f"which lacks {missing[0]} of '{base}'")
    head.load_state_dict({name: weights[f"tri_layer.{name}"] for name in ("weight", "bias")})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return encoder.to(device).eval(), head.to(device).eval(), AutoTokenizer.from_pretrained(source)


def read_weights(checkpoint: str) -> dict[str, Any]:
    """Return the tensors of a .safetensors file, or of a published checkpoint, here or as
    REPOSITORY/FILE on the hub.

    The published files are pickles. They alone are read, known by their digests, and only for
    their tensors.

    Raises:
        UserError: the file is missing, another pickle, or no AlignScore checkpoint.
    """
    import torch

    path = Path(checkpoint).expanduser()
    if not path.is_file():
        path = _download(checkpoint)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        weights: dict[str, Any] = load_file(path)
    else:
        _check_published(path, checkpoint)
        weights = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    if "tri_layer.weight" not in weights:
        raise _refuse(checkpoint, "which is no AlignScore checkpoint: it has no tri_layer")
    return weights


def _check_published(path: Path, checkpoint: str) -> None:
    with path.open("rb") as file:
        if file_digest(file, "sha256").hexdigest() not in PUBLISHED:
            raise _refuse(
                checkpoint,
                "which is a pickle, and not one of those that AlignScore's authors published: "
                "save its state_dict as .safetensors where you trust it",
            )


def find_weights(checkpoint: str) -> None:
    """Check that `checkpoint` is a file here or on the hub, without downloading it.

    Raises:
        UserError: it is neither, or a pickle that nobody published.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    repository, _, file = checkpoint.rpartition("/")
    path = Path(checkpoint).expanduser()
    if path.is_file():
        if path.suffix != ".safetensors":
            _check_published(path, checkpoint)
        return
    try:
        if not isinstance(try_to_load_from_cache(repository, file), str):
            get_hf_file_metadata(hf_hub_url(repository, file))
    except (OSError, ValueError, EntryNotFoundError) as error:
        raise _refuse(
            checkpoint, "no file here, and not to be had from the hub as REPOSITORY/FILE"
        ) from error


def _download(checkpoint: str) -> Path:
    from huggingface_hub import hf_hub_download

    repository, _, file = checkpoint.rpartition("/")
    try:
        return Path(hf_hub_download(repository, file))
    except (OSError, ValueError) as error:
        raise _refuse(
            checkpoint, "no file here, and not to be had from the hub as REPOSITORY/FILE"
        ) from error


def _refuse(checkpoint: str, reason: str) -> UserError:
    return UserError(f"evaluation.models.alignscore.checkpoint is '{checkpoint}', {reason}")
