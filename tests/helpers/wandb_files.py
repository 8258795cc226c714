"""What is in the files that W&B writes without a network: a log in blocks, of one message each
record.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEADER = 7  # bytes at the begin of a file, and before each part of a record
BLOCK = 32 * 1024
FULL, LAST = 1, 4  # kinds of a part that end a record


@dataclass
class WandbFile:
    """One attempt at a run, as `wandb sync` would send it."""

    run: str = ""
    project: str = ""
    name: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    axes: dict[str, str] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)


def read_wandb_files(folder: Path) -> list[WandbFile]:
    """The files below `folder`, in the order in which they were begun."""
    return [_read(path) for path in sorted(folder.rglob("*.wandb"))]


def _read(path: Path) -> WandbFile:
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    found = WandbFile()
    for data in _split(path.read_bytes()):
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run.run_id
            found.project = record.run.project
            found.name = record.run.display_name
            found.tags = list(record.run.tags)
            found.config |= {
                item.key: json.loads(item.value_json) for item in record.run.config.update
            }
        elif kind == "history":
            found.rows.append(
                {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
            )
        elif kind == "metric":
            found.axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "request" and record.request.HasField("log_artifact"):
            found.artifacts.append(record.request.log_artifact.artifact.name)
        elif kind == "artifact":
            found.artifacts.append(record.artifact.name)
    return found


def _split(data: bytes) -> Iterator[bytes]:
    """The records of a log."""
    at = HEADER
    parts = b""
    while at + HEADER <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER:  # the rest of a block that no part fits in
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (FULL, LAST):
            yield parts
            parts = b""
