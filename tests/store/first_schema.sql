-- A journal as it was written before revisions were counted; PostgreSQL has SERIAL ids and DOUBLE PRECISION.
CREATE TABLE atgen_schema (
    version INTEGER NOT NULL);
CREATE TABLE runs (
    name VARCHAR NOT NULL,
    config JSON NOT NULL,
    digest VARCHAR NOT NULL,
    status VARCHAR NOT NULL,
    created DOUBLE NOT NULL,
    updated DOUBLE NOT NULL,
    PRIMARY KEY (name));
CREATE TABLE tokens (
    id VARCHAR NOT NULL,
    role VARCHAR NOT NULL,
    label VARCHAR NOT NULL,
    digest VARCHAR NOT NULL,
    created DOUBLE NOT NULL,
    revoked BOOLEAN NOT NULL,
    PRIMARY KEY (id));
CREATE TABLE annotations (
    id INTEGER NOT NULL,
    run VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    annotator VARCHAR NOT NULL,
    round INTEGER NOT NULL,
    text JSON NOT NULL,
    dollars DOUBLE NOT NULL,
    provenance JSON NOT NULL,
    time DOUBLE NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (run, example_id, annotator),
    FOREIGN KEY(run) REFERENCES runs (name));
CREATE TABLE controllers (
    run VARCHAR NOT NULL,
    epoch INTEGER NOT NULL,
    owner VARCHAR,
    host VARCHAR NOT NULL,
    machine VARCHAR NOT NULL,
    pid INTEGER NOT NULL,
    started DOUBLE NOT NULL,
    expires DOUBLE NOT NULL,
    stop_asked BOOLEAN NOT NULL,
    PRIMARY KEY (run),
    FOREIGN KEY(run) REFERENCES runs (name));
CREATE TABLE dead_letters (
    id INTEGER NOT NULL,
    run VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    step VARCHAR NOT NULL,
    round INTEGER,
    reason JSON NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (run, example_id, step),
    FOREIGN KEY(run) REFERENCES runs (name));
CREATE TABLE events (
    run VARCHAR NOT NULL,
    sequence INTEGER NOT NULL,
    kind VARCHAR NOT NULL,
    round INTEGER,
    step VARCHAR,
    payload JSON NOT NULL,
    seconds DOUBLE,
    time DOUBLE NOT NULL,
    PRIMARY KEY (run, sequence),
    FOREIGN KEY(run) REFERENCES runs (name));
CREATE UNIQUE INDEX one_event_per_step ON events (run, coalesce(round, -1), step) WHERE kind = 'step';
CREATE TABLE ledger (
    run VARCHAR NOT NULL,
    "key" VARCHAR NOT NULL,
    round INTEGER NOT NULL,
    annotator VARCHAR NOT NULL,
    example_id VARCHAR NOT NULL,
    held BIGINT NOT NULL,
    paid BIGINT,
    PRIMARY KEY (run, "key"),
    FOREIGN KEY(run) REFERENCES runs (name));
CREATE TABLE shards (
    run VARCHAR NOT NULL,
    hash VARCHAR NOT NULL,
    annotator VARCHAR NOT NULL,
    round INTEGER NOT NULL,
    size INTEGER NOT NULL,
    remote VARCHAR,
    status VARCHAR NOT NULL,
    done BOOLEAN NOT NULL,
    time DOUBLE NOT NULL,
    PRIMARY KEY (run, hash),
    FOREIGN KEY(run) REFERENCES runs (name));
CREATE TABLE requests (
    run VARCHAR NOT NULL,
    custom_id VARCHAR NOT NULL,
    shard VARCHAR NOT NULL,
    annotator VARCHAR NOT NULL,
    round INTEGER NOT NULL,
    example_id VARCHAR NOT NULL,
    vote INTEGER NOT NULL,
    repair INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    prompt_hash VARCHAR NOT NULL,
    state VARCHAR NOT NULL,
    response JSON,
    reason JSON,
    prompt_tokens INTEGER,
    output_tokens INTEGER,
    time DOUBLE NOT NULL,
    PRIMARY KEY (run, custom_id),
    UNIQUE (run, annotator, round, example_id, vote, repair, attempt),
    FOREIGN KEY(run, shard) REFERENCES shards (run, hash),
    FOREIGN KEY(run) REFERENCES runs (name));
INSERT INTO atgen_schema VALUES (2);
INSERT INTO runs VALUES ('old', '{"seed": 1}', 'digest', 'stopped', 1.0, 2.0);
INSERT INTO controllers VALUES ('old', 3, NULL, '', '', 0, 0.0, 0.0, false);
INSERT INTO events VALUES ('old', 1, 'step', 0, 'pool', '{"rows": 2}', 1.5, 3.0);
INSERT INTO annotations (run, example_id, annotator, round, text, dollars, provenance, time) VALUES
    ('old', 'e1', 'dataset', 1, '"ein\u00e9"', 0.5, '{}', 4.0);
INSERT INTO ledger VALUES ('old', 'k', 1, 'dataset', 'e1', 500000000, 500000000);
INSERT INTO shards VALUES ('old', 'h', 'openai', 1, 1, 'batch_1', 'completed', true, 5.0);
INSERT INTO requests VALUES ('old', 'c', 'h', 'openai', 1, 'e1', 0, 0, 0, 'p', 'answered', '{"x": 1}', NULL, 3, 4, 6.0);
INSERT INTO dead_letters (run, example_id, step, round, reason) VALUES ('old', 'e2', 'pool', NULL, '"empty"');
INSERT INTO tokens VALUES ('abcd', 'admin', 'old', 'digest', 7.0, false);
