"""What the form of a new run shows before a run: the first rows of its data with guessed columns,
and the first prompts with their tokens.
"""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from atgen_ray.config import DataConfig, PromptConfig, ServiceConfig
from atgen_ray.config.messages import format_validation_errors
from atgen_ray.core.errors import UserError
from atgen_ray.data.column_guess import guess_columns, show_value
from atgen_ray.data.columns import find_leaves
from atgen_ray.data.preview import fill_head, read_head
from atgen_ray.models.token_count import count_tokens
from atgen_ray.serving.security.restrictions import check_location
from atgen_ray.serving.uploads import upload_folder
from atgen_ray.text.conversation import show_example

SHOWN_ROWS = 5
SHOWN_PROMPTS = 3
CELL = 400  # characters of a value that are shown
PROMPT = 20_000  # characters of a prompt that are shown
KEPT = 8  # data sets whose first rows are kept
KEPT_SECONDS = 60.0

Model = TypeVar("Model", bound=BaseModel)
Head = tuple[list[dict[str, Any]], list[str]]


class Previews:
    """Previews for one service; the first rows of the last data sets are kept for a minute, so that
    each key typed does not read them anew.
    """

    def __init__(self, service: ServiceConfig) -> None:
        self._service = service
        self._roots = [*service.data_roots, upload_folder(service.storage)]
        self._kept: OrderedDict[str, tuple[float, Head]] = OrderedDict()
        self._lock = threading.Lock()

    def show(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """Return `columns`, the guessed `input` and `answer`, the first `rows`, and `prompts`.

        `tree` need not be a whole configuration: sections beside data and prompt are not looked at,
        but for model.id. Where data.input names no column yet, the guessed one is used for the
        prompts.

        Raises:
            UserError: the data cannot be read, or may not be read over HTTP.
        """
        given = _section(tree, "data")
        data = _parse(DataConfig, given, "data.")
        prompt = _parse(PromptConfig, _section(tree, "prompt"), "prompt.")
        if data.path is not None:
            data = data.model_copy(update={"path": self._allow(data.path, "data.path")})
        data = data.model_copy(update={"pool": self._allow(data.pool, "data.pool")})
        rows, errors = self._read(data)
        guess = guess_columns(rows)
        if "input" not in given and guess.input is not None:
            data = data.model_copy(update={"input": guess.input})
        return {
            **guess.to_plain(),
            "rows": [
                {column.name: _cell(row, column.name) for column in guess.columns}
                for row in rows[:SHOWN_ROWS]
            ],
            "unreadable": errors[:SHOWN_ROWS],
            **self._prompt(rows[:SHOWN_PROMPTS], data, prompt, tree),
        }

    def _prompt(
        self,
        rows: list[dict[str, Any]],
        data: DataConfig,
        prompt: PromptConfig,
        tree: Mapping[str, Any],
    ) -> dict[str, Any]:
        filled = fill_head(rows, data, prompt)
        model = _section(tree, "model").get("id")
        model = self._allow(model, "model.id") if isinstance(model, str) and model else ""
        system = prompt.system or ""
        texts = [f"{system}\n\n{row['text']}" if system else row["text"] or "" for row in filled]
        counts, counted = count_tokens(model, texts)
        prompts = [
            {
                "system": system or None,
                "text": row["text"] and show_example(row["text"])[:PROMPT],
                "answer": row["references"][0][:PROMPT] if row["references"] else None,
                "error": row["error"],
                "tokens": tokens,
            }
            for row, tokens in zip(filled, counts, strict=True)
        ]
        return {"prompts": prompts, "counted": counted}

    def _allow(self, location: str, key: str) -> str:
        return check_location(location, self._roots, key)

    def _read(self, data: DataConfig) -> Head:
        named = ("pool", "path", "format", "subset", "revision", "pool_split")
        key = json.dumps([getattr(data, name) for name in named])
        now = time.monotonic()
        with self._lock:
            if key in self._kept and now - self._kept[key][0] < KEPT_SECONDS:
                return self._kept[key][1]
        head = read_head(data)
        with self._lock:
            self._kept[key] = (now, head)
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return head


def _section(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = tree.get(name)
    return dict(value) if isinstance(value, Mapping) else {}


def _parse(model: type[Model], values: Mapping[str, Any], prefix: str) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(format_validation_errors(error, model, prefix))) from None


def _cell(row: Mapping[str, Any], column: str) -> str:
    leaves = find_leaves(dict(row), column) or []
    return "\n".join(show_value(value) for _, value in leaves if value is not None)[:CELL]
