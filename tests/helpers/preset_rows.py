"""A made-up row in the shape of each preset's source: what the split files hold, by split.

Each value is (rows of the pool, rows of the test set or None for the same, part of the user turn,
references of the first test example).
"""

from typing import Any

Shape = tuple[list[dict[str, Any]], list[dict[str, Any]] | None, str, list[str]]

TRIVIA = {"question": "Who wrote Emma?", "question_id": "t1", "entity_pages": {"title": []}}
TRIVIA |= {
    "answer": {
        "value": "Jane Austen",
        "aliases": ["Austen", "Jane Austen"],
        "normalized_value": "jane austen",
    }
}
RACE = {
    "example_id": "high1.txt",
    "article": "Ann has a red hat.",
    "question": "What is red?",
    "answer": "B",
}
MEDICAL = {
    "id": "m1",
    "question": "Which is a bone?",
    "cop": 2,
    "choice_type": "single",
    "exp": "The femur is.",
}
MEDICAL |= {
    "opa": "Liver",
    "opb": "Skin",
    "opc": "Femur",
    "opd": "Iris",
    "subject_name": "Anatomy",
    "topic_name": None,
}
HOTPOT: dict[str, Any] = {
    "id": "h1",
    "question": "Where was its author born?",
    "answer": "Steventon",
    "type": "bridge",
    "level": "easy",
}
HOTPOT |= {"supporting_facts": {"title": ["Jane"], "sent_id": [0]}}
HOTPOT |= {
    "context": {
        "title": ["Jane", "Bath"],
        "sentences": [["Jane was born", " in Steventon."], ["Bath is old."]],
    }
}
MUSIQUE = {
    "id": "2hop__1",
    "question": "Who led it?",
    "answer": "Ada",
    "answer_aliases": ["A. L."],
    "answerable": True,
}
MUSIQUE |= {
    "paragraphs": [{"idx": 0, "title": "Club", "paragraph_text": "Ada led.", "is_supporting": True}]
}
WEB_NLG = {
    "category": "City",
    "size": 2,
    "eid": "1",
    "shape": "(X (X))",
    "original_triple_sets": {"otriple_set": []},
}
WEB_NLG |= {
    "modified_triple_sets": {"mtriple_set": [["Ulm | country | Germany", "Ulm | river | Danube"]]}
}
WEB_NLG |= {
    "lex": {
        "comment": ["good"] * 2,
        "lid": ["1", "2"],
        "text": ["Ulm is in Germany.", "Germany has Ulm."],
    }
}
TOOLS: dict[str, Any] = {
    "id": 0,
    "query": "Add 1 and 2",
    "tools": '[{"name": "add", "parameters": {"a": {"type": "int"}}}]',
}
TOOLS |= {"answers": '[{"name": "add", "arguments": {"a": 1, "b": 2}}]'}
XLSUM = {"id": "x", "url": "u", "title": "शीर्षक", "text": "लंबा लेख यहाँ है।", "summary": "छोटा सार।"}
MGSM = {"question": "Anna hat 2 Äpfel und kauft 3. Wie viele?", "answer": None, "answer_number": 5}


def _summary(source: str, target: str, **more: Any) -> Shape:
    row = {source: "A long text about foxes. They run.", target: "Foxes run.", **more}
    return [row], None, "about foxes", ["Foxes run."]


SHAPES: dict[str, Shape] = {
    "trivia_qa": ([TRIVIA], None, "Who wrote Emma?", ["Jane Austen", "Austen"]),
    "nq_open": (
        [{"question": "who is it", "answer": ["Bob", "Rob"]}],
        None,
        "who is it",
        ["Bob", "Rob"],
    ),
    "web_questions": (
        [{"url": "u", "question": "what is it?", "answers": ["Tea"]}],
        None,
        "what is it?",
        ["Tea"],
    ),
    "gsm8k": (
        [{"question": "1 + 1?", "answer": "1+1=<<1+1=2>>2\n#### 2"}],
        None,
        "1 + 1?",
        ["1+1=<<1+1=2>>2\n#### 2"],
    ),
    "math": (
        [
            {
                "problem": "Find $x$.",
                "level": "Level 1",
                "type": "Algebra",
                "solution": r"So $\boxed{2}$.",
            }
        ],
        None,
        "Find $x$.",
        [r"So $\boxed{2}$."],
    ),
    "race": (
        [RACE | {"options": ["a coat", "a hat", "a shoe", "a bag"]}],
        None,
        "B. a hat\nC. a shoe",
        ["B"],
    ),
    "medmcqa": ([MEDICAL], [MEDICAL | {"cop": 0}], "C. Femur", ["A"]),
    "aeslc": _summary("email_body", "subject_line"),
    "xsum": _summary("document", "summary", id="1"),
    "gigaword": _summary("document", "summary"),
    "dialogsum": _summary("dialogue", "summary", topic="foxes", id="d1"),
    "scitldr": (
        [
            {
                "source": ["We test.", "It works."],
                "source_labels": [0, 1],
                "target": ["It works well."],
            }
        ],
        [
            {
                "source": ["We test.", "It works."],
                "source_labels": [0, 1],
                "target": ["Works well.", "It works."],
            }
        ],
        "We test. It works.",
        ["Works well.", "It works."],
    ),
    "hotpotqa": (
        [HOTPOT],
        None,
        "Jane: Jane was born in Steventon.\nBath: Bath is old.",
        ["Steventon"],
    ),
    "musique": ([MUSIQUE], None, "Club: Ada led.", ["Ada", "A. L."]),
    "e2e": (
        [
            {"meaning_representation": "name[Zizzi]", "human_reference": text}
            for text in ("Zizzi is a place.", "There is a place, Zizzi.")
        ],
        None,
        "name[Zizzi]",
        ["Zizzi is a place.", "There is a place, Zizzi."],
    ),
    "webnlg": (
        [WEB_NLG],
        None,
        "Ulm | country | Germany\nUlm | river | Danube",
        ["Ulm is in Germany.", "Germany has Ulm."],
    ),
    "commongen": (
        [
            {"concept_set_idx": 0, "concepts": ["dog", "run"], "target": text}
            for text in ("A dog runs far.", "Dogs run away.")
        ],
        None,
        "dog run",
        ["A dog runs far.", "Dogs run away."],
    ),
    "tool_calling": ([TOOLS] * 2001, None, "Request: Add 1 and 2", [TOOLS["answers"]]),
    "mgsm": ([MGSM] * 151, None, "Anna hat 2 Äpfel", ["#### 5"]),
    "multi30k": (
        [{"en": "A dog runs.", "de": "Ein Hund rennt."}],
        None,
        "A dog runs.",
        ["Ein Hund rennt."],
    ),
    "xlsum": ([XLSUM], None, "लंबा लेख", ["छोटा सार।"]),
}
