"""How numbers, names and texts are written for people."""

import math

DASH = "–"
TITLES = {
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
    "sacrebleu": "sacreBLEU",
    "sentence_bleu": "Sentence BLEU",
    "chrf": "chrF",
    "bertscore": "BERTScore",
    "bartscore": "BARTScore",
    "bartscore_reference": "BARTScore of the reference",
    "alignscore": "AlignScore",
    "llm_judge": "LLM judge",
    "squad_exact_match": "SQuAD exact match",
    "squad_f1": "SQuAD F1",
    "exact_match": "Exact match",
    "token_f1": "Token F1",
}


def write_metric(name: str | None) -> str:
    """`rougeL` as ROUGE-L; an unknown metric by its own name."""
    return DASH if name is None else TITLES.get(name, name.replace("_", " "))


def write_number(value: float | None, digits: int = 3) -> str:
    """A fixed number of digits; a dash for what is not there or not finite."""
    return DASH if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def write_change(value: float | None, digits: int = 3) -> str:
    """As `write_number`, always with its sign."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{abs(value):.{digits}f}"
    sign = "" if not float(text) else "+" if value > 0 else "−"
    return f"{sign}{text}"


def write_part(value: float) -> str:
    """A part of a score: three decimals below 100, whole numbers as such."""
    if not math.isfinite(value):
        return DASH
    if value == int(value) and abs(value) < 1e6:
        return f"{value:.0f}".replace("-", "−")
    return (
        f"{value:.3f}".replace("-", "−")
        if 0.0005 <= abs(value) < 100
        else f"{value:.3g}".replace("-", "−")
    )


def write_count(value: float) -> str:
    """A whole number with separators."""
    return f"{value:,.0f}"


def write_planned(value: float | None) -> str:
    """A number that was planned or counted: whole ones with separators, others with up to four
    decimals.
    """
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4f}".rstrip("0").rstrip(".")


def write_dollars(value: float) -> str:
    """$2.40; four digits where cents would hide it."""
    return f"${value:,.4f}" if 0 < value < 0.01 else f"${value:,.2f}"


def write_seconds(value: float) -> str:
    """0.4 s, 38 s, 4 min 12 s, 3 h 20 min."""
    if 0 < value < 9.95:
        return f"{value:.1f} s"
    seconds = round(value)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min" + (f" {seconds % 60} s" if seconds % 60 else "")
    minutes = round(seconds / 60)
    return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")


def write_share(value: float) -> str:
    """A share from 0 to 1 as a percentage."""
    return DASH if not math.isfinite(value) else f"{100 * value:.0f} %"


def cut_text(text: str, limit: int) -> str:
    """At most `limit` characters, cut between words where one ends near; an ellipsis says that
    there was more.
    """
    if len(text) <= limit:
        return text
    kept = text[: limit - 1]
    whole = kept.rpartition(" ")[0]
    return (whole if whole and len(kept) - len(whole) <= 20 else kept).rstrip(" .,;:") + "…"


def name_letter(index: int) -> str:
    """A, B, ... Z, AA, AB: how a run is called in plots and tables."""
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters
