"""Process that compares expressions with math-verify: it reads a JSON pair a line and writes `true`
or `false` a line.
"""

import json
import sys


def compare(right: str, given: str) -> bool:
    """Return whether `given` equals the expression `right`."""
    from math_verify import parse, verify

    return bool(verify(parse(_mark(right)), parse(_mark(given))))


def _mark(text: str) -> str:
    """Return the text as LaTeX mathematics; text with a $ has its own marks."""
    return text if "$" in text else f"${text}$"


def main() -> None:
    """Compare pairs until the input ends; flush each verdict, so that a kill loses only one."""
    for line in sys.stdin:
        print(json.dumps(compare(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
