"""The example of a pool that a label from elsewhere is for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import jinja2

from atgen_ray.annotation.human.exchange.imported_labels import ImportedLabel
from atgen_ray.models.user_template import fill_template


@dataclass(frozen=True)
class PoolIndex:
    """The examples of a pool, to be found by id, by prompt, or by what the prompt is made of."""

    texts: Mapping[str, str]  # user turns by id
    template: str = "{{ input }}"
    column: str = "input"  # data.input

    def find(self, label: ImportedLabel) -> str | None:
        """Return the id of a label's example, or None."""
        if label.id is not None and label.id in self.texts:
            return label.id
        if label.id is not None and label.input is None and not label.columns:
            return None
        for prompt in self._list_prompts(label):
            if (id_ := self._by_text.get(prompt)) is not None:
                return id_
        for prompt in self._list_prompts(label):
            if (id_ := self._by_words.get(" ".join(prompt.split()))) is not None:
                return id_
        return None

    @cached_property
    def _by_text(self) -> dict[str, str]:
        # Of equal texts the first example counts.
        return {text: id_ for id_, text in reversed([*self.texts.items()])}

    @cached_property
    def _by_words(self) -> dict[str, str]:
        return {" ".join(text.split()): id_ for id_, text in reversed([*self.texts.items()])}

    def _list_prompts(self, label: ImportedLabel) -> Iterable[str]:
        """Yield what the example's prompt may be: a value as it is, then put in the template."""
        if label.input is not None:
            values = [label.input]
        else:
            values = [value for value in label.columns.values() if isinstance(value, str)]
        yield from values
        named = label.columns.get(self.column.rpartition(".")[2])
        for value in [named, *values] if isinstance(named, str) else values:
            try:
                yield fill_template(self.template, {**label.columns, "input": value})
            except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError):
                continue  # the template needs columns that this file has not
