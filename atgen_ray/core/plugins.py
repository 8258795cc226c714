"""Plug-ins: strategies, metrics, annotators, engines and checks of other installed packages.

A package offers a plug-in by an entry point, whose name is the name in the configuration:

    [project.entry-points."atgen_ray.strategies"]
    my_strategy = "my_package.strategies:MY_STRATEGY"

- Only installed packages are searched, never the working folder of a run.
- Names come from the packages' metadata. Code is imported when a name is used or explained, and not
  before.
- A plug-in never replaces a built-in member or another plug-in: such a name raises UserError.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from atgen_ray.core.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Plugin:
    """A plug-in as its package declares it; `target` is MODULE:ATTRIBUTE."""

    group: str
    name: str
    package: str
    version: str
    target: str

    def __str__(self) -> str:
        return f"package {self.package} {self.version} (entry point {self.target} in {self.group})"


class Registry(Mapping[str, T], Generic[T]):
    """Built-in members and plug-ins by name.

    Iteration gives names only and imports nothing; looking a name up imports its plug-in once.

    Args:
        group: the group of entry points, such as `atgen_ray.strategies`.
        kind: the word for a member in messages, such as `strategy`.
        builtin: the built-in members by name.
        find_fault: returns, for the name and object of a plug-in, what it is and what was expected;
            None if it is right.
        reserved: further names that no plug-in may take.
    """

    def __init__(
        self,
        group: str,
        kind: str,
        builtin: Mapping[str, T],
        find_fault: Callable[[str, Any], str | None],
        reserved: Collection[str] = (),
    ) -> None:
        self.group = group
        self.kind = kind
        self.builtin = builtin
        self._find_fault = find_fault
        self._taken = {*builtin, *reserved}
        self._loaded: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        """Return the member called `name`.

        Raises:
            KeyError: there is none.
            UserError: the plug-in cannot be imported, is of the wrong type, or has a name that is
                taken.
        """
        self.refuse_clash(name)
        if name in self.builtin:
            return self.builtin[name]
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self.builtin or name in self.plugin_names

    def __iter__(self) -> Iterator[str]:
        yield from self.builtin
        yield from self.plugin_names

    def __len__(self) -> int:
        return len(self.builtin) + len(self.plugin_names)

    @property
    def plugin_names(self) -> list[str]:
        """Return the names of plug-ins that take no built-in name, sorted."""
        return sorted({plugin.name for plugin, _ in _find(self.group)} - self._taken)

    def list_plugins(self) -> list[tuple[Plugin, str | None]]:
        """Return every plug-in of the group with the reason why it cannot be used, or None."""
        return [(plugin, self._find_problem(plugin.name)) for plugin, _ in _find(self.group)]

    def list_usable(self) -> Iterator[tuple[str, T]]:
        """Yield the built-in members and the plug-ins that can be imported, sorted by name."""
        for name in sorted(self):
            if self._find_problem(name) is None:
                yield name, self[name]

    def refuse_clash(self, name: str) -> None:
        """Raise UserError if a plug-in takes a built-in name, or two plug-ins take this name."""
        offers = [plugin for plugin, _ in _find(self.group) if plugin.name == name]
        if offers and name in self._taken:
            raise UserError(
                f"{self.kind} '{name}' is built in and is offered by {offers[0]} too, expected "
                "another name there: rename it, or uninstall the package"
            )
        if len(offers) > 1:
            both = " and by ".join(map(str, offers))
            raise UserError(
                f"{self.kind} '{name}' is offered by {both}, expected one: uninstall a package"
            )

    def _find_problem(self, name: str) -> str | None:
        try:
            self[name]
        except UserError as error:
            return str(error)
        return None

    def _load(self, name: str) -> T:
        for plugin, entry in _find(self.group):
            if plugin.name == name:
                return self._import(plugin, entry)
        raise KeyError(name)

    def _import(self, plugin: Plugin, entry: EntryPoint) -> T:
        # Importing runs the package's code, which may fail in any way.
        try:
            found: T = entry.load()
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(
                f"{self.kind} '{plugin.name}' of {plugin} cannot be imported: {reason}"
            ) from None
        if (fault := self._find_fault(plugin.name, found)) is not None:
            raise UserError(f"{self.kind} '{plugin.name}' of {plugin} is {fault}")
        return found


def expect_type(expected: type) -> Callable[[str, Any], str | None]:
    """Return a `find_fault` for `Registry`: plug-ins must be instances of `expected`."""

    def find_fault(name: str, found: Any) -> str | None:
        if isinstance(found, expected):
            return None
        return f"of type {type(found).__name__}, expected an instance of {expected.__name__}"

    return find_fault


def expect_callable(name: str, found: Any) -> str | None:
    """Return the fault of a plug-in that is no function or class; a `find_fault` of `Registry`."""
    return None if callable(found) else f"of type {type(found).__name__}, expected a function"


@cache
def _find(group: str) -> tuple[tuple[Plugin, EntryPoint], ...]:
    """Return the entry points of `group`, sorted by name and package; read once in a process."""
    try:
        here: Path | None = Path.cwd()
    except OSError:  # it was deleted
        here = None
    found = []
    for entry in entry_points(group=group):
        # A working folder on sys.path may hold data of a run that looks like a package.
        if entry.dist is None or Path(str(entry.dist.locate_file(""))).resolve() == here:
            continue
        package = entry.dist.metadata["Name"]
        plugin = Plugin(group, entry.name, package, entry.dist.version, entry.value)
        found.append((plugin, entry))
    return tuple(sorted(found, key=lambda pair: (pair[0].name, pair[0].package)))
