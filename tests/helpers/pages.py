"""What the pages of the documentation show."""

import re


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of the languages."""
    return [
        body
        for language, body in re.findall(r"```(\w*)\n(.*?)```", text, re.S)
        if language in languages
    ]


def block_after(text: str, words: str) -> list[str]:
    """The commands of the first shell block after these words, lines that continue joined."""
    found = blocks(text[text.index(words) :], "sh")[0].replace("\\\n", " ")
    return [line for line in found.splitlines() if line.strip()]
