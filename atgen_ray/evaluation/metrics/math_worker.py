"""The process that compares expressions with math-verify: a JSON pair a line in, `true` or `false`
a line out.
"""

import json
import sys


def compare(right: str, given: str) -> bool:
    """Whether `given` equals the expression `right`."""
    from math_verify import parse, verify

    return bool(verify(parse(_mark(right)), parse(_mark(given))))


def _mark(text: str) -> str:
    """As LaTeX mathematics, unless it says so itself."""
    return text if "$" in text else f"${text}$"


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(compare(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
