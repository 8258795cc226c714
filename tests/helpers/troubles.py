"""What real providers do besides their documentation, and what an annotation must come to
nevertheless.
"""

from helpers.faults import Fault

GATEWAY_LIMIT = '{"error": {"code": 429, "message": "Provider returned error"}}'
GATEWAY_NULL = '{"id": "x", "choices": null, "error": {"code": 429, "message": "slow down"}}'
OVERLOADED = '{"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}'
GATEWAY_BROKE = '{"error": {"code": 402, "message": "Insufficient credits"}}'
GATEWAY_MODERATED = '{"error": {"code": 403, "message": "Your input was flagged"}}'
MODERATED = {"status": 403, "code": "permission_error", "message": "The input was flagged"}
CREDITS = {"status": 402, "code": "", "message": "This request requires more credits"}
PER_MINUTE = {"code": "RESOURCE_EXHAUSTED", "message": "You exceeded your current quota, retry"}
NO_FILE = {"status": 400, "code": "invalid_request", "message": "Cannot find file file-7."}
OPENAI = ("openai",)
BATCH = ("batch",)
SYNC = ("sync",)

TROUBLES = [
    # Batches and their results are not always where they should be.
    Fault("404 on the first polls", BATCH, on="poll", rule={"status": 404, "times": 3}),
    Fault("400 on the first polls", BATCH, on="poll", rule={"status": 400, "times": 3}, kinds=OPENAI),
    Fault("404 on the first downloads", BATCH, on="download", rule={"status": 404, "times": 3}),
    Fault("404 on polls for ever", BATCH, on="poll", rule={"status": 404, "times": 999}, paused=True),
    Fault("404 on downloads for ever", BATCH, on="download", rule={"status": 404, "times": 999}, paused=True),
    Fault("completed without an output file for a while", BATCH, settings={"late_file": 3}, kinds=OPENAI,
          lasting=True),
    Fault("completed without an output file for ever", BATCH, settings={"late_file": 999}, kinds=OPENAI,
          lasting=True, paused=True),
    Fault("half of the results at first", BATCH, settings={"late_lines": 2}, lasting=True),
    Fault("a download cut short", BATCH, on="download", rule={"cut": 0.6}),
    Fault("every row failed: there is an error file alone", BATCH, kinds=OPENAI,
          settings={"share": 0.0, "row_error": "server_error"}),
    Fault("the file is not found after its upload", BATCH, kinds=OPENAI, rule=NO_FILE | {"times": 3}),
    Fault("the file is never found", BATCH, kinds=OPENAI, rule=NO_FILE | {"times": 999}, paused=True),
    Fault("a batch that failed as its file is not found", BATCH, kinds=OPENAI,
          settings={"ending": "failed", "failure": ["invalid_file", "Cannot find file file-7."]}),
    Fault("batches cancelled by others again and again", BATCH, settings={"share": 0.0, "ending": "cancelled"},
          lasting=True, paused=True),
    # Limits of the queue.
    Fault("room for six rows in the queue", BATCH, settings={"queue": 6, "polls": 1}, kinds=OPENAI, lasting=True,
          config={"shard_rows": 4}),
    Fault("room for less than a batch in the queue", BATCH, settings={"queue": 3}, kinds=OPENAI, lasting=True),
    Fault("a full queue refuses the creation", BATCH, kinds=OPENAI,
          rule={"status": 429, "code": "token_limit_exceeded", "message": "Enqueued token limit", "times": 6}),
    # Bills that are told badly.
    Fault("usage is missing", settings={"usage": "missing"}, lasting=True, untold=True),
    Fault("usage is null", settings={"usage": "null"}, lasting=True, untold=True, kinds=OPENAI),
    Fault("output tokens are null", SYNC, settings={"usage": "null-output"}, lasting=True, untold=True),
    Fault("reasoning is left out of the output tokens", settings={"usage": "thought-outside", "thought": 9},
          lasting=True, kinds=OPENAI),
    # Accounts, rows and gateways.
    Fault("402 in any words", rule=CREDITS | {"skip": 1}, paused=True, config={"shard_rows": 6}),
    Fault("403 for one row", SYNC, rule=MODERATED | {"skip": 1}, dead=1),
    Fault("403 for the first row", SYNC, rule=MODERATED, dead=1),
    Fault("403 without a reason for one row", SYNC, rule={"status": 403, "message": "no", "skip": 6}, dead=1,
          config={"concurrency": 1}),
    Fault("429 by the minute, in the words of a quota", rule=PER_MINUTE | {"status": 429, "times": 3}, kinds=OPENAI),
    Fault("200 with a 429 within", SYNC, rule={"body": GATEWAY_LIMIT, "times": 3}, kinds=OPENAI),
    Fault("200 with an overload within", SYNC, rule={"body": OVERLOADED, "times": 3}, kinds=("anthropic",)),
    Fault("200 with null choices and a 429", SYNC, rule={"body": GATEWAY_NULL, "times": 3}, kinds=OPENAI),
    Fault("200 with a 402 within", SYNC, rule={"body": GATEWAY_BROKE, "skip": 1}, kinds=OPENAI, paused=True),
    Fault("200 with a 403 within", SYNC, rule={"body": GATEWAY_MODERATED, "skip": 1}, kinds=OPENAI, dead=1),
    Fault("rows of a batch with a 429 within 200", BATCH, kinds=OPENAI,
          settings={"share": 0.5, "row_body": {"error": {"code": 429, "message": "Provider returned error"}}}),
    Fault("rows of a batch with null choices and a 402", BATCH, kinds=OPENAI, paused=True,
          settings={"share": 0.5, "row_body": {"choices": None, "error": {"code": 402, "message": "no"}}}),
    Fault("rows of a batch with status 402", BATCH, kinds=OPENAI, settings={"share": 0.5, "row_status": 402},
          paused=True),
    # Waits.
    Fault("a wait of a day", rule={"status": 429, "retry_after": 86400, "times": 999}, paused=True),
    Fault("a wait that is no number", SYNC, rule={"status": 429, "retry_after": "a day", "times": 2}),
    Fault("a wait without end", SYNC, rule={"status": 429, "retry_after": "inf", "times": 2}, kinds=OPENAI),
    Fault("a wait until a date that has passed", SYNC, kinds=OPENAI, rule={"status": 429, "times": 2,
          "retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    Fault("a server that ignores max_tokens", settings={"extra_tokens": 300}, lasting=True),
]  # fmt: skip
