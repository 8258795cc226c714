"""Everything that providers are made to do wrong, and what an annotation must come to
nevertheless.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from atgen_ray.core.errors import RunPaused
from atgen_ray.store.ledger import read_balance
from helpers.annotation_desk import QUICK, Desk, configure, make_texts
from helpers.fakes.provider import FakeProvider
from helpers.fakes.state import label_of

ROWS = 12
CREATE = {
    ("openai", "sync"): "POST /v1/chat/completions",
    ("openai", "batch"): "POST /v1/batches",
    ("anthropic", "sync"): "POST /v1/messages",
    ("anthropic", "batch"): "POST /v1/messages/batches",
    ("mistral", "sync"): "POST /v1/chat/completions",
    ("mistral", "batch"): "POST /v1/batch/jobs",
    ("gemini", "batch"): "POST /v1beta/models/{call}",
    ("azure", "batch"): "POST /openai/v1/batches",
}
POLL = {
    "openai": "GET /v1/batches/{batch}",
    "anthropic": "GET /v1/messages/batches/{batch}",
    "mistral": "GET /v1/batch/jobs/{batch}",
    "gemini": "GET /v1beta/batches/{batch}",
    "azure": "GET /openai/v1/batches/{batch}",
}
DOWNLOAD = {
    "openai": "GET /v1/files/{file}/content",
    "mistral": "GET /v1/files/{file}/content",
    "azure": "GET /openai/v1/files/{file}/content",
    "gemini": "GET /v1beta/batches/{batch}",
    "anthropic": "GET /v1/messages/batches/{batch}/results",
}
BOTH = ("sync", "batch")


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, at a route (`on`: create, poll or download) or by settings of the
    stand-in.

    `paused`: the run pauses with a clear state; it is resumed once the fault is gone. `dead`: so
    many rows end as dead letters for a reason that lies in them. `doubt`: so many answers may be
    lost where nobody keeps them (Anthropic's single messages); their worst case stays in the
    ledger, and they are never sent again.
    """

    name: str
    modes: tuple[str, ...] = BOTH
    on: str = "create"
    rule: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    paused: bool = False
    dead: int = 0
    doubt: int = 0
    kinds: tuple[str, ...] = ("openai", "anthropic")
    lasting: bool = False  # the settings of the stand-in hold for all batches
    untold: bool = False  # nobody says what is billed, so that the worst case counts


QUOTA = {"status": 429, "code": "insufficient_quota", "message": "You exceeded your current quota"}
CREDIT = {
    "status": 400,
    "code": "invalid_request_error",
    "message": "Your credit balance is too low",
}
FAULTS = [
    Fault("429 with Retry-After", rule={"status": 429, "retry_after": 0.05, "times": 3}),
    Fault("429 without Retry-After", rule={"status": 429, "times": 3}),
    Fault("status 500", rule={"status": 500, "times": 2}),
    Fault("status 503, then 529", rule={"status": 529, "times": 2}),
    Fault("status 502 of a proxy", rule={"status": 502, "times": 1}),
    Fault("connection lost before the work", rule={"drop": "before", "times": 2}, doubt=2),
    Fault("connection lost after the work", rule={"drop": "after", "times": 2}, doubt=2),
    Fault("no answer within the deadline", rule={"delay": 3.0}, config={"timeout_seconds": 2.0}, doubt=1),
    Fault("an answer that is no JSON", ("sync",), rule={"malformed": "<html>oops</html>"}, doubt=1),
    Fault("half an answer", ("sync",), rule={"malformed": '{"id": "x", "cho'}, doubt=1),
    Fault("JSON without the answer", ("sync",), rule={"malformed": '{"id": "x"}'}, dead=1, untold=True),
    Fault("quota spent (429)", rule=QUOTA | {"skip": 1}, paused=True, config={"shard_rows": 6}),
    Fault("credit spent (400)", rule=CREDIT | {"skip": 1}, paused=True, config={"shard_rows": 6}),
    Fault("quota spent within a batch", ("batch",), settings={"share": 0.5, "row_error": "billing_error"}, paused=True),
    Fault("out of reach for longer than outage_minutes", rule={"status": 503, "times": 999}, paused=True),
    Fault("upload fails", ("batch",), on="POST /v1/files", rule={"status": 500, "times": 2}, kinds=("openai",)),
    Fault("upload lost on the way", ("batch",), on="POST /v1/files", rule={"drop": "after"}, kinds=("openai",)),
    Fault("poll fails", ("batch",), on="poll", rule={"status": 500, "times": 3}),
    Fault("poll is no JSON", ("batch",), on="poll", rule={"malformed": "<html>"}),
    Fault("download lost on the way", ("batch",), on="download", rule={"drop": "before", "times": 2}),
    Fault("batch expired with half its rows", ("batch",), settings={"share": 0.5, "ending": "expired"}),
    Fault("batch cancelled with a third of its rows", ("batch",), settings={"share": 0.34, "ending": "cancelled"}),
    Fault("batch completed with an error file", ("batch",), settings={"share": 0.75}, kinds=("openai",)),
    Fault("batch failed: too many tokens enqueued", ("batch",), kinds=("openai",),
          settings={"ending": "failed", "failure": ["token_limit_exceeded", "too many"]}),
    Fault("server errors for half the rows", ("batch",), settings={"share": 0.5, "row_error": "api_error"}),
    Fault("a quarter of the rows refused", ("batch",), settings={"share": 0.75, "row_error": "invalid_request_error"},
          dead=3),
    Fault("two lines of the results broken", ("batch",), settings={"broken_lines": 2}, dead=2,
          untold=True),
    Fault("created, the answer lost, and not in the list at once", ("batch",), rule={"drop": "after"},
          settings={"hide": 2}),
    Fault("more tokens billed than asked for", settings={"extra_tokens": 50}),
]  # fmt: skip


@dataclass(frozen=True)
class Account:
    """What an annotation came to. All but `labelled`, `dead`, `doubt` and `pauses` must be 0."""

    labelled: int
    dead: int
    doubt: int
    pauses: int
    lost: int  # billed, and unknown to the ledger
    paid_twice: int
    mislabelled: int
    missing: int  # neither label nor dead letter
    dollars_off: float  # of the ledger above the bills, where nothing is in doubt


def try_fault(fault: Fault, provider: FakeProvider, folder: Path, kind: str, mode: str) -> Account:
    """Annotates under the fault; after a pause again without it, as a user would."""
    provider.reset()
    route = {"create": CREATE[kind, mode], "poll": POLL[kind], "download": DOWNLOAD[kind]}.get(
        fault.on, fault.on.replace("/v1", "/openai/v1") if kind == "azure" else fault.on
    )
    if fault.rule:
        provider.fail(route, **fault.rule)
    # Half-empty batches would make half-empty batches for ever: the fault is over after the first.
    provider.set(**fault.settings)
    provider.set(
        once=[]
        if fault.lasting or fault.name == "more tokens billed than asked for"
        else [*fault.settings]
    )
    patience = replace(QUICK, lookup=2.0) if "timeout_seconds" in fault.config else QUICK
    patience = replace(patience, outage=1.0) if "outage" in fault.name else patience
    desk = Desk(
        provider,
        folder,
        configure(provider, kind, mode, **fault.config),
        make_texts(ROWS),
        patience,
    )
    pauses = 0
    try:
        labels, dead = desk.annotate()
    except RunPaused:
        pauses = 1
        bills = provider.bills()
        balance = read_balance(desk.journal, "paid")
        assert (balance.paid + balance.held) * 1000 >= sum(
            bill.prompt + bill.output for bill in bills
        ) - 0.01
        provider.recover()
        labels, dead = desk.annotate()
    bills = provider.bills()
    doubt = {desk.texts[id_] for id_, letter in dead.items() if "in_doubt" in letter.reason}
    known = {desk.texts[id_] for id_ in labels} | doubt | {desk.texts[id_] for id_ in dead}
    balance = read_balance(desk.journal, "paid")
    off = balance.paid - sum(bill.prompt + bill.output for bill in bills) / 1000
    return Account(
        labelled=len(labels),
        dead=len(dead) - len(doubt),
        doubt=len(doubt),
        pauses=pauses,
        lost=sum(bill.example not in known for bill in bills),
        paid_twice=sum(count - 1 for count in Counter(bill.example for bill in bills).values()),
        mislabelled=sum(label.text != label_of(desk.texts[id_]) for id_, label in labels.items()),
        missing=ROWS - len(labels) - len(dead),
        dollars_off=0.0 if doubt else round(off, 6),
    )


def list_trials(faults: Sequence[Fault] = FAULTS) -> list[tuple[Fault, str, str]]:
    """Every fault in every mode that can have it."""
    return [(fault, kind, mode) for fault in faults for kind in fault.kinds for mode in fault.modes]


def expect_doubt(fault: Fault, kind: str, mode: str) -> int:
    """Answers that nobody can look up: only Anthropic's single messages have any."""
    return fault.doubt if (kind, mode) == ("anthropic", "sync") else 0
