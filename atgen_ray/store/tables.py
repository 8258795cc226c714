"""Tables of the journal. `atgen_ray/store/migrations` says how to change them."""

import sqlalchemy as sa

TABLES = sa.MetaData()
_RUN = "runs.name"

runs = sa.Table(
    "runs",
    TABLES,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("config", sa.JSON, nullable=False),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("created", sa.Double, nullable=False),  # seconds since 1970, as all times here
    sa.Column("updated", sa.Double, nullable=False),
    sa.Column("title", sa.String),  # shown in place of the name; null: the name
    sa.Column("archived", sa.Double),  # since when lists leave it out; null: they do not
    sa.Column("served", sa.Boolean),  # whether a service started it last, and resumes it
)

# One row a run from its creation on: the row to lock for every write of the run.
controllers = sa.Table(
    "controllers",
    TABLES,
    sa.Column("run", sa.ForeignKey(_RUN), primary_key=True),
    sa.Column("epoch", sa.Integer, nullable=False),  # how often the run was taken
    sa.Column("owner", sa.String),  # null: free
    sa.Column("host", sa.String, nullable=False),
    sa.Column("machine", sa.String, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started", sa.Double, nullable=False),  # when that process started
    sa.Column("expires", sa.Double, nullable=False),
    sa.Column("stop_asked", sa.Boolean, nullable=False),
)

events = sa.Table(
    "events",
    TABLES,
    sa.Column("run", sa.ForeignKey(_RUN), primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),  # from 1, no gaps
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("round", sa.Integer),
    sa.Column("step", sa.String),
    sa.Column("payload", sa.JSON, nullable=False),
    sa.Column("seconds", sa.Double),
    sa.Column("time", sa.Double, nullable=False),
)
# A unique index takes two nulls for different, so a step outside all rounds counts as round -1.
_COMMITTED = events.c.kind == sa.literal_column("'step'")
sa.Index(
    "one_event_per_step",
    events.c.run,
    sa.func.coalesce(events.c.round, sa.literal_column("-1")),
    events.c.step,
    unique=True,
    sqlite_where=_COMMITTED,
    postgresql_where=_COMMITTED,
)

# Texts are stored as JSON: a text column of PostgreSQL takes no NUL, and no database takes a lone
# surrogate.
annotations = sa.Table(
    "annotations",
    TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run", sa.ForeignKey(_RUN), nullable=False),
    sa.Column("example_id", sa.String, nullable=False),
    sa.Column("annotator", sa.String, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("text", sa.JSON, nullable=False),
    sa.Column("dollars", sa.Double, nullable=False),
    sa.Column("provenance", sa.JSON, nullable=False),
    sa.Column("time", sa.Double, nullable=False),
    sa.UniqueConstraint("run", "example_id", "annotator"),
)
# The labels of some rounds are read without a look at those of the others.
sa.Index("annotations_by_round", annotations.c.run, annotations.c.round, annotations.c.id)

dead_letters = sa.Table(
    "dead_letters",
    TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run", sa.ForeignKey(_RUN), nullable=False),
    sa.Column("example_id", sa.String, nullable=False),
    sa.Column("step", sa.String, nullable=False),
    sa.Column("round", sa.Integer),
    sa.Column("reason", sa.JSON, nullable=False),
    sa.UniqueConstraint("run", "example_id", "step"),
)
# The first ones are shown, and those of a step counted, without a look at the reasons of all.
sa.Index("dead_letters_in_order", dead_letters.c.run, dead_letters.c.id)
sa.Index("dead_letters_by_step", dead_letters.c.run, dead_letters.c.step, dead_letters.c.id)

# Every dollar: what is held for work that was sent, and what was paid for it. Money is whole
# billionths of a dollar.
ledger = sa.Table(
    "ledger",
    TABLES,
    sa.Column("run", sa.ForeignKey(_RUN), primary_key=True),
    sa.Column("key", sa.String, primary_key=True),  # of the request, or of the label
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("annotator", sa.String, nullable=False),
    sa.Column("example_id", sa.String, nullable=False),
    sa.Column("held", sa.BigInteger, nullable=False),  # the worst case that was reserved
    sa.Column("paid", sa.BigInteger),  # null: not settled, so that `held` counts
    # What another run paid for a label that was taken over; null: nothing.
    sa.Column("inherited", sa.BigInteger),
)

sa.Index("ledger_examples", ledger.c.run, ledger.c.example_id)
sa.Index("ledger_rounds", ledger.c.run, ledger.c.round, ledger.c.annotator)

# Sums over the labels and the ledger of a run by round and annotator; `store/totals.py` keeps them
# up to date.
totals = sa.Table(
    "totals",
    TABLES,
    sa.Column("run", sa.ForeignKey(_RUN), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("annotator", sa.String, primary_key=True),
    sa.Column("labels", sa.BigInteger, nullable=False),
    sa.Column("entries", sa.BigInteger, nullable=False),  # of the ledger
    sa.Column("paid", sa.BigInteger, nullable=False),  # billionths of a dollar, as `held`
    sa.Column("held", sa.BigInteger, nullable=False),
    # Labels whose example is not in the ledger, and their dollars.
    sa.Column("outside", sa.BigInteger, nullable=False),
    sa.Column("unledgered", sa.Double, nullable=False),
    sa.Column("inherited", sa.BigInteger, nullable=False),
)

# What is sent in one piece to a provider: a batch job, or a single request.
shards = sa.Table(
    "shards",
    TABLES,
    sa.Column("run", sa.ForeignKey(_RUN), primary_key=True),
    # Digest of its requests; the provider's metadata carry it, so that a lost shard is found again.
    sa.Column("hash", sa.String, primary_key=True),
    sa.Column("annotator", sa.String, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("remote", sa.String),  # the provider's id; null: not known to be created
    sa.Column("status", sa.String, nullable=False),  # as the provider last said it
    sa.Column("done", sa.Boolean, nullable=False),  # all its answers are in `requests`
    sa.Column("time", sa.Double, nullable=False),
)

# Those under way, which are few: a run that asks one by one has a shard for each request.
_UNDER_WAY = ~shards.c.done
sa.Index(
    "open_shards",
    shards.c.run,
    shards.c.time,
    sqlite_where=_UNDER_WAY,
    postgresql_where=_UNDER_WAY,
)

# When an annotator began a round.
sa.Index("shards_by_round", shards.c.run, shards.c.annotator, shards.c.round, shards.c.time)

# A request to an annotating model, entered before it is sent, and its raw response.
requests = sa.Table(
    "requests",
    TABLES,
    sa.Column("run", sa.ForeignKey(_RUN), primary_key=True),
    sa.Column("custom_id", sa.String, primary_key=True),
    sa.Column("shard", sa.String, nullable=False),
    sa.Column("annotator", sa.String, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("example_id", sa.String, nullable=False),
    sa.Column("vote", sa.Integer, nullable=False),
    sa.Column("repair", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),  # how often it was sent before, unbilled
    sa.Column("prompt_hash", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),  # sent, answered, unanswered, refused, lost
    sa.Column("response", sa.JSON),
    sa.Column("reason", sa.JSON),
    sa.Column("prompt_tokens", sa.Integer),
    sa.Column("output_tokens", sa.Integer),
    # The longest answer that was asked for, in tokens; null: annotator.max_output_tokens.
    sa.Column("output_limit", sa.Integer),
    sa.Column("time", sa.Double, nullable=False),
    sa.UniqueConstraint("run", "annotator", "round", "example_id", "vote", "repair", "attempt"),
    sa.ForeignKeyConstraint(["run", "shard"], ["shards.run", "shards.hash"]),
)

# Sums over the requests of a run by round, annotator and state;
# `annotation/llm/request_totals.py` keeps them up to date.
request_totals = sa.Table(
    "request_totals",
    TABLES,
    sa.Column("run", sa.ForeignKey(_RUN), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("annotator", sa.String, primary_key=True),
    sa.Column("judged", sa.Boolean, primary_key=True),  # questions about answers, of a judge
    sa.Column("state", sa.String, primary_key=True),  # as of `requests`
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("billed", sa.BigInteger, nullable=False),  # those whose output tokens are known
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("longest", sa.Integer, nullable=False),  # output tokens of one request, at most
)

# An example that people are to label, or whose label was brought along. Its state follows from the
# answers to it.
tasks = sa.Table(
    "tasks",
    TABLES,
    sa.Column("run", sa.ForeignKey(_RUN), primary_key=True),
    sa.Column("example_id", sa.String, primary_key=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("rank", sa.Integer, nullable=False),
    sa.Column("wanted", sa.Integer, nullable=False),  # answers by different people
    sa.Column("most", sa.Integer),  # so many where they disagree; null: as many as are wanted
    sa.Column("price", sa.BigInteger),  # of an answer, billionths of a dollar; null: see the ledger
    # open, disputed, answered or dropped; the run sets taken (label) and buried (dead letter).
    sa.Column("state", sa.String, nullable=False),
    sa.Column("input", sa.JSON, nullable=False),
    sa.Column("suggestion", sa.JSON),  # a model's answer: text, source, round
    sa.Column("why", sa.JSON),  # it was picked: strategy, rank, score, parts
    sa.Column("first", sa.JSON),  # what the first annotator of a router said of it
    sa.Column("decision", sa.JSON),  # of an admin
    # Of a gold item, which has a known answer and no label: texts, explanation; null: a task.
    sa.Column("gold", sa.JSON(none_as_null=True)),
    sa.Column("changed", sa.Double, nullable=False),
    sa.Column("context", sa.JSON),  # what stands beside the input: pairs of column and text
    # Characters of the input that the model reads; null: all, or unknown.
    sa.Column("window", sa.Integer),
    # When the run first took its label, or gave it up; null: not yet.
    sa.Column("collected", sa.Double),
    # The smaller one is labelled first; 0 unless an admin said otherwise.
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("score", sa.Double),  # as in `why`
    sa.Column("agreement", sa.Double),  # of the answers, when it was last resolved
    sa.Column("fields", sa.JSON),  # short columns of its source row by name, without the answers
)
# The queue and the task list go through tasks in these orders; the id breaks ties.
_QUEUE = (tasks.c.priority, tasks.c.round, tasks.c.rank, tasks.c.example_id)
sa.Index("tasks_by_state", tasks.c.run, tasks.c.state, *_QUEUE)
sa.Index("tasks_in_order", tasks.c.run, *_QUEUE)
sa.Index("tasks_by_change", tasks.c.run, tasks.c.changed, tasks.c.example_id)
sa.Index("tasks_by_score", tasks.c.run, tasks.c.score, tasks.c.example_id)
sa.Index("tasks_by_agreement", tasks.c.run, tasks.c.agreement, tasks.c.example_id)

# Gold items are few beside the tasks.
_GOLD = tasks.c.gold.is_not(None)
sa.Index("gold_tasks", tasks.c.run, sqlite_where=_GOLD, postgresql_where=_GOLD)
# Tasks by state are counted, and the oldest is found, in this index alone.
_NO_GOLD = tasks.c.gold.is_(None)
sa.Index(
    "tasks_by_age",
    tasks.c.run,
    tasks.c.state,
    tasks.c.changed,
    sqlite_where=_NO_GOLD,
    postgresql_where=_NO_GOLD,
)

# For whom an example is kept. An example without a row here is for everybody.
assignees = sa.Table(
    "assignees",
    TABLES,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("example_id", sa.String, primary_key=True),
    sa.Column("who", sa.String, primary_key=True),  # a person, or `@` and the name of a group
    sa.ForeignKeyConstraint(["run", "example_id"], ["tasks.run", "tasks.example_id"]),
)

# One person's work on one example. The key keeps anybody from labelling it twice.
assignments = sa.Table(
    "assignments",
    TABLES,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("example_id", sa.String, primary_key=True),
    sa.Column("annotator", sa.String, primary_key=True),
    sa.Column("state", sa.String, nullable=False),  # leased, submitted, skipped, flagged
    sa.Column("until", sa.Double, nullable=False),  # when the lease expires
    sa.Column("leased", sa.Double, nullable=False),
    # Of the draft: an older one never replaces a newer one.
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("draft", sa.JSON),
    sa.Column("text", sa.JSON),
    sa.Column("note", sa.JSON),  # why it was skipped or flagged
    sa.Column("seconds", sa.Double),
    sa.Column("answered", sa.Double),
    sa.Column("guidelines", sa.Integer),  # the version that its person had; null: unknown
    # When the person took it in hand; null: it is only prepared, and others may take it.
    sa.Column("opened", sa.Double),
    sa.ForeignKeyConstraint(["run", "example_id"], ["tasks.run", "tasks.example_id"]),
)
sa.Index(
    "assignments_by_person",
    assignments.c.run,
    assignments.c.annotator,
    assignments.c.answered,
    assignments.c.state,
)
_LEASED = assignments.c.state == sa.literal_column("'leased'")
sa.Index(
    "leases",
    assignments.c.run,
    assignments.c.annotator,
    assignments.c.until,
    sqlite_where=_LEASED,
    postgresql_where=_LEASED,
)
sa.Index("assignees_by_person", assignees.c.run, assignees.c.who, assignees.c.example_id)

# Every change of an answer, or of a label, after it was given.
revisions = sa.Table(
    "revisions",
    TABLES,
    sa.Column("id", sa.Integer, primary_key=True),  # rises with time within a run
    sa.Column("run", sa.ForeignKey(_RUN), nullable=False),
    sa.Column("example_id", sa.String, nullable=False),
    # edited, withdrawn, reopened or corrected (an answer); label (what the run took).
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("by", sa.String, nullable=False),
    sa.Column("annotator", sa.String),  # whose answer it was, or whose label it is now
    sa.Column("before", sa.JSON),
    sa.Column("after", sa.JSON),
    sa.Column("reason", sa.JSON),
    sa.Column("round", sa.Integer),  # of the label that changed; null: no label did
    sa.Column("time", sa.Double, nullable=False),
)
sa.Index("revisions_by_example", revisions.c.run, revisions.c.example_id, revisions.c.id)
_CHANGED_LABEL = revisions.c.round.is_not(None)
sa.Index(
    "changed_labels",
    revisions.c.run,
    revisions.c.id,
    sqlite_where=_CHANGED_LABEL,
    postgresql_where=_CHANGED_LABEL,
)

# The guidelines of a run after the configuration's, which are version 1 and have no row.
guidelines = sa.Table(
    "guidelines",
    TABLES,
    sa.Column("run", sa.ForeignKey(_RUN), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("text", sa.JSON, nullable=False),
    sa.Column("reason", sa.JSON, nullable=False),  # what changed, in a line
    sa.Column("author", sa.String, nullable=False),
    sa.Column("time", sa.Double, nullable=False),
)

# What annotators tell the lead about an example without leaving it.
remarks = sa.Table(
    "remarks",
    TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run", sa.String, nullable=False),
    sa.Column("example_id", sa.String, nullable=False),
    sa.Column("annotator", sa.String, nullable=False),
    sa.Column("text", sa.JSON, nullable=False),
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("closed", sa.Double),  # null: it waits for the lead
    sa.Column("version", sa.Integer),  # of the guidelines that took it up
    sa.ForeignKeyConstraint(["run", "example_id"], ["tasks.run", "tasks.example_id"]),
)
sa.Index("remarks_by_run", remarks.c.run, remarks.c.closed)

# The answer to an HTTP request that may be sent again, by the idempotency key of its sender.
receipts = sa.Table(
    "receipts",
    TABLES,
    sa.Column("run", sa.ForeignKey(_RUN), primary_key=True),
    sa.Column("annotator", sa.String, primary_key=True),
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("digest", sa.String, nullable=False),  # of the request
    sa.Column("answer", sa.JSON, nullable=False),
    sa.Column("time", sa.Double, nullable=False),
)
sa.Index("receipts_by_time", receipts.c.run, receipts.c.annotator, receipts.c.time)

# Access tokens of the service. Only the digest is stored: a token is 256 random bits, so one round
# of SHA-256 is enough.
tokens = sa.Table(
    "tokens",
    TABLES,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("label", sa.String, nullable=False),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("revoked", sa.Boolean, nullable=False),
    sa.Column("expires", sa.Double),  # null: never
    sa.Column("runs", sa.JSON),  # names of the runs that it may see; null: all
    sa.Column("member_of", sa.JSON),  # names of the groups of its person; null: none
    sa.Column("used", sa.Double),  # when it was last shown, to some minutes; null: never
    sa.Column("scopes", sa.JSON),  # what it may do beside its role; null: nothing
    # Of the secret before the last rotation, and until when it still lets its caller in.
    sa.Column("old_digest", sa.String),
    sa.Column("old_until", sa.Double),
    sa.Column("minute_requests", sa.Integer),  # at most; null: any number
    sa.Column("day_tokens", sa.BigInteger),  # of models, at most; null: any number
)

# Browsers that are signed in. A session ends with its token, and with the secret it was opened by.
sessions = sa.Table(
    "sessions",
    TABLES,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("digest", sa.String, nullable=False),  # of the cookie's secret
    sa.Column("token", sa.ForeignKey("tokens.id"), nullable=False),
    sa.Column("token_digest", sa.String, nullable=False),  # of the secret that was shown
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("expires", sa.Double, nullable=False),
)
sa.Index("sessions_by_token", sessions.c.token, sessions.c.created)

# Tokens of models that an access token was answered with, by day (since 1970, UTC).
token_usage = sa.Table(
    "token_usage",
    TABLES,
    sa.Column("token", sa.ForeignKey("tokens.id"), primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("model_tokens", sa.BigInteger, nullable=False),
)

# Tokens of models that a caller was answered with, by day (since 1970, UTC), and what they cost.
usage = sa.Table(
    "usage",
    TABLES,
    sa.Column("by", sa.String, primary_key=True),
    sa.Column("model", sa.String, primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("nano", sa.BigInteger, nullable=False),  # dollars, in billionths
)

# Tokens that a fine-tuning job was trained on, by round; they outlive the job.
trained_usage = sa.Table(
    "trained_usage",
    TABLES,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("by", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("day", sa.Integer, nullable=False),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("nano", sa.BigInteger, nullable=False),
)
sa.Index("trained_usage_by_caller", trained_usage.c.by, trained_usage.c.day)

# Links with which people make tokens of their own.
invites = sa.Table(
    "invites",
    TABLES,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("digest", sa.String, nullable=False),  # of the link's secret
    sa.Column("role", sa.String, nullable=False),  # as the columns of `tokens` of these names
    sa.Column("runs", sa.JSON),
    sa.Column("member_of", sa.JSON),
    sa.Column("person", sa.String),  # for whom alone it is; null: whoever has the link
    sa.Column("uses", sa.Integer, nullable=False),
    sa.Column("max_uses", sa.Integer, nullable=False),
    sa.Column("expires", sa.Double, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("author", sa.String, nullable=False),
    sa.Column("revoked", sa.Boolean, nullable=False),
    sa.Column("token_days", sa.Double),  # life of a token that it makes; null: the default
)

# Who changed what: a chain of entries that triggers keep from being changed. It names runs, and
# stays when a run is removed; hence no reference.
audit = sa.Table(
    "audit",
    TABLES,
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),  # from 1, no gaps
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("channel", sa.String, nullable=False),  # http, page, cli, api or service
    sa.Column("action", sa.String, nullable=False),
    sa.Column("of_run", sa.String),
    sa.Column("target", sa.String),
    sa.Column("result", sa.String, nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),  # counts and ids, no texts
    # Token, person and address. The chain holds a salted hash of them, so that they can be removed.
    sa.Column("who", sa.JSON(none_as_null=True)),  # null: removed
    sa.Column("salt", sa.String),
    sa.Column("who_digest", sa.String, nullable=False),
    sa.Column("previous", sa.String, nullable=False),  # digest of the entry before
    sa.Column("digest", sa.String, nullable=False),
)
sa.Index("audit_by_time", audit.c.time)
sa.Index("audit_by_run", audit.c.of_run, audit.c.sequence)

# The last entry of the chain: the row that writers lock.
audit_head = sa.Table(
    "audit_head",
    TABLES,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),  # always 1
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.String, nullable=False),
)

# The task list.
sa.Index("assignments_by_state", assignments.c.run, assignments.c.state, assignments.c.example_id)

# An admin's verdict on one person's answer.
reviews = sa.Table(
    "reviews",
    TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run", sa.String, nullable=False),
    sa.Column("example_id", sa.String, nullable=False),
    sa.Column("annotator", sa.String, nullable=False),  # whose answer it was
    sa.Column("verdict", sa.String, nullable=False),  # accepted, corrected, returned
    sa.Column("text", sa.JSON, nullable=False),  # the answer at that time
    sa.Column("comment", sa.JSON, nullable=False),
    sa.Column("by", sa.String, nullable=False),
    sa.Column("drawn", sa.Boolean, nullable=False),  # the answer was drawn at random
    sa.Column("time", sa.Double, nullable=False),
    sa.ForeignKeyConstraint(["run", "example_id"], ["tasks.run", "tasks.example_id"]),
)
sa.Index("reviews_by_task", reviews.c.run, reviews.c.example_id, reviews.c.id)

# What an admin did with many tasks at once, and what each was before, so that it can be undone.
bulk_actions = sa.Table(
    "bulk_actions",
    TABLES,
    sa.Column("run", sa.ForeignKey(_RUN), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),  # from 1, no gaps
    sa.Column("verb", sa.String, nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),  # the request, but for its ids
    sa.Column("tasks", sa.Integer, nullable=False),  # how many it changed
    sa.Column("by", sa.String, nullable=False),
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("undone", sa.Double),  # when; null: it holds
)
bulk_tasks = sa.Table(
    "bulk_tasks",
    TABLES,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("example_id", sa.String, primary_key=True),
    sa.Column("before", sa.JSON, nullable=False),
    sa.ForeignKeyConstraint(["run", "number"], ["bulk_actions.run", "bulk_actions.number"]),
)

# What left the house: copies that nobody here can delete.
exports = sa.Table(
    "exports",
    TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run", sa.ForeignKey(_RUN), nullable=False),
    sa.Column("what", sa.String, nullable=False),  # labels, answers, selection, report
    sa.Column("format", sa.String, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("by", sa.String, nullable=False),
    sa.Column("place", sa.JSON),  # the file that was written; null: sent to who asked
    sa.Column("time", sa.Double, nullable=False),
)
sa.Index("exports_by_run", exports.c.run, exports.c.id)

# Deletions on request. A row has nothing of what was deleted but digests and ids.
deletions = sa.Table(
    "deletions",
    TABLES,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),  # example, label, person, upload, run
    sa.Column("target", sa.JSON, nullable=False),
    sa.Column("by", sa.String, nullable=False),
    sa.Column("begun", sa.Double, nullable=False),
    sa.Column("finished", sa.Double),  # null: it was cut short, the same command finishes it
    sa.Column("certificate", sa.JSON, nullable=False),
)

# Uploaded files, each with who sent it first.
uploads = sa.Table(
    "uploads",
    TABLES,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("by", sa.String, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("time", sa.Double, nullable=False),
)

# Files of the OpenAI-compatible API: what is known of them beside the upload of the same content.
api_files = sa.Table(
    "api_files",
    TABLES,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("by", sa.String, nullable=False),
    sa.Column("upload", sa.String, nullable=False),  # name in the storage's uploads
    sa.Column("filename", sa.String, nullable=False),
    sa.Column("purpose", sa.String, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("expires", sa.Double),  # null: never
)
sa.Index("api_files_by_time", api_files.c.created, api_files.c.id)

# Fine-tuning jobs, each a run; their state is the run's.
tuning_jobs = sa.Table(
    "tuning_jobs",
    TABLES,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("by", sa.String, nullable=False),
    sa.Column("key", sa.String),  # Idempotency-Key of the request
    sa.Column("run", sa.String, nullable=False),
    sa.Column("asked", sa.JSON, nullable=False),  # the body of the request
    sa.Column("tree", sa.JSON, nullable=False),  # the configuration of the run
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("halt", sa.String),  # what was asked last: "paused", "cancelled" or "resumed"
    sa.Column("price", sa.Double),  # dollars for a million tokens of training; null: nothing
)
sa.Index("tuning_jobs_by_run", tuning_jobs.c.run, unique=True)
sa.Index("one_job_per_key", tuning_jobs.c.by, tuning_jobs.c.key, unique=True)

# Batches of questions to the service's own models.
batches = sa.Table(
    "batches",
    TABLES,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("by", sa.String, nullable=False),
    sa.Column("token", sa.String, nullable=False),  # id of the token that asked
    sa.Column("key", sa.String),  # Idempotency-Key of the request
    sa.Column("asked", sa.JSON, nullable=False),  # the body of the request
    sa.Column("status", sa.String, nullable=False),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Column("completed", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("output", sa.String),  # ids of files
    sa.Column("errors", sa.String),
    sa.Column("message", sa.String),  # why it failed
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("ended", sa.Double),
    sa.Column("owner", sa.String),  # who works on it, until `expires`
    sa.Column("expires", sa.Double),
)
sa.Index("batches_by_status", batches.c.status, batches.c.created)
sa.Index("one_batch_per_key", batches.c.by, batches.c.key, unique=True)
