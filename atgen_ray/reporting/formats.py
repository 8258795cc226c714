"""Formats of numbers, names and texts for people: in reports, on pages and on screens. What is not
there or not finite becomes a dash.
"""

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
    "judge_spread": "Spread of the judges",
    "squad_exact_match": "SQuAD exact match",
    "squad_f1": "SQuAD F1",
    "exact_match": "Exact match",
    "token_f1": "Token F1",
}


def format_metric(name: str | None) -> str:
    """Return the title of a metric, such as ROUGE-L for `rougeL`; an unknown one keeps its name."""
    return DASH if name is None else TITLES.get(name, name.replace("_", " "))


def format_number(value: float | None, digits: int = 3) -> str:
    """Return the number with a fixed count of decimals."""
    return DASH if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def format_change(value: float | None, digits: int = 3) -> str:
    """Return the number as `format_number` does, always with its sign."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{abs(value):.{digits}f}"
    sign = "" if not float(text) else "+" if value > 0 else "−"
    return f"{sign}{text}"


def format_part(value: float) -> str:
    """Return a part of a score: three decimals below 100, whole numbers without any."""
    if not math.isfinite(value):
        return DASH
    if value == int(value) and abs(value) < 1e6:
        return f"{value:.0f}".replace("-", "−")
    return (
        f"{value:.3f}".replace("-", "−")
        if 0.0005 <= abs(value) < 100
        else f"{value:.3g}".replace("-", "−")
    )


def format_count(value: float) -> str:
    """Return a whole number with thousands separators."""
    return f"{value:,.0f}"


def format_planned(value: float | None) -> str:
    """Return a number of a plan: whole ones with thousands separators, others with up to four
    decimals.
    """
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4f}".rstrip("0").rstrip(".")


def format_dollars(value: float) -> str:
    """Return dollars as $2.40, with four decimals for less than a cent."""
    return f"${value:,.4f}" if 0 < value < 0.01 else f"${value:,.2f}"


def format_seconds(value: float) -> str:
    """Return a duration as 0.4 s, 38 s, 4 min 12 s or 3 h 20 min."""
    if 0 < value < 9.95:
        return f"{value:.1f} s"
    seconds = round(value)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min" + (f" {seconds % 60} s" if seconds % 60 else "")
    minutes = round(seconds / 60)
    return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")


def format_share(value: float) -> str:
    """Return a share from 0 to 1 as a percentage."""
    return DASH if not math.isfinite(value) else f"{100 * value:.0f} %"


def cut_text(text: str, limit: int) -> str:
    """Return at most `limit` characters of the text. A cut falls between words where one ends near,
    and shows as an ellipsis.
    """
    if len(text) <= limit:
        return text
    kept = text[: limit - 1]
    whole = kept.rpartition(" ")[0]
    return (whole if whole and len(kept) - len(whole) <= 20 else kept).rstrip(" .,;:") + "…"


def name_letter(index: int) -> str:
    """Return the letter of the run at `index` in plots and tables: A, B, ... Z, AA, AB."""
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters
