"""How the suite is spread over processes, which of its tests are slow, and where its seconds went.

A file is the unit that a process is given; files that need the same costly session fixture are one
unit, so that only one process pays for it. The longest units come first: the processes then end at
about the same time. The units need `--dist=loadgroup --no-loadscope-reorder`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import pytest

# Seconds of the files that take longest, on two cores. They decide the order and nothing else: a
# number that is out of date costs time only. Each run of the suite ends with the current ones.
SECONDS: dict[str, float] = {
    "tests/chaos/test_kills.py": 180,
    "tests/chaos/test_starved_runs.py": 150,
    "tests/cluster/test_jobs.py": 150,
    "tests/annotation/test_kills_while_paying.py": 140,
    "tests/bench/test_sweep.py": 110,
    "tests/ray/test_annotators.py": 100,
    "tests/ray/test_run.py": 95,
    "tests/ray/test_dry_run.py": 75,
    "tests/ray/test_real_models.py": 70,
    "tests/ray/test_budgets.py": 65,
    "tests/ray/test_evaluation.py": 60,
    "tests/ray/test_every_strategy.py": 60,
    "tests/ray/test_select_command.py": 60,
    "tests/gpu/test_logical_gpus.py": 90,
    "tests/gpu/test_gpu_service.py": 50,
    "tests/bench/test_results.py": 60,
    "tests/annotation/test_engine.py": 50,
    "tests/web/test_annotate.py": 50,
    "tests/cluster/test_two_cores.py": 50,
    "tests/cluster/test_service.py": 50,
    "tests/attack/test_ray_ports.py": 50,
    "tests/ray/test_fork.py": 45,
    "tests/selection/test_select_batch.py": 30,
    "tests/training/test_methods.py": 30,
}

# Fixtures of the session that start something, which would otherwise be started in every process.
# The first that a file needs is its unit.
SHARED = ("serve_url", "ray_session")

# A test that needs one of these fixtures, or is given PostgreSQL as a parameter, starts Ray, Serve,
# a database server, a browser or a whole run.
SLOW_FIXTURES = {
    "ray_session",
    "serve_url",
    "browser",
    "postgres_url",
    "finished",
    "make_project",
    "storage",
}
# Folders and files whose tests start such things by themselves, or load real models.
SLOW_PLACES = (
    "tests/chaos/",
    "tests/cluster/",
    "tests/gpu/",
    "tests/ray/",
    "tests/web/",
    "tests/annotation/test_kills_while_paying.py",
    "tests/attack/test_ray_ports.py",
    "tests/bench/test_results.py",
    "tests/bench/test_sweep.py",
    "tests/test_placement.py",
)


def file_of(nodeid: str) -> str:
    """The file that a test is in."""
    return nodeid.partition("::")[0]


def folder_of(nodeid: str) -> str:
    """The folder that a test is in, as it is called in the summary."""
    return file_of(nodeid).rpartition("/")[0] or "."


def is_slow(nodeid: str, fixtures: Iterable[str]) -> bool:
    """Whether `make test-fast` leaves a test out."""
    return (
        nodeid.startswith(SLOW_PLACES)
        or "postgresql" in nodeid.partition("[")[2]
        or not SLOW_FIXTURES.isdisjoint(fixtures)
    )


def name_units(items: Iterable[pytest.Item]) -> dict[str, str]:
    """The unit of each file: its own name, or the first of `SHARED` that one of its tests needs."""
    needed: dict[str, set[str]] = defaultdict(set)
    for item in items:
        needed[file_of(item.nodeid)].update(getattr(item, "fixturenames", ()))
    return {
        file: next((fixture for fixture in SHARED if fixture in fixtures), file)
        for file, fixtures in needed.items()
    }


@pytest.hookimpl(tryfirst=True)  # before xdist, which reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is slow, names the units, and puts those first that take longest.

    Tests of one file stay together and in their order.
    """
    units = name_units(items)
    lengths: dict[str, float] = defaultdict(float)
    for file, unit in units.items():
        lengths[unit] += SECONDS.get(file, 0.0)
    for unit in set(SHARED) & set(lengths):
        lengths[unit] = float("inf")  # by far the longest, whatever their files are measured at
    for item in items:
        if is_slow(item.nodeid, getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.xdist_group(units[file_of(item.nodeid)]))
    first = {unit: place for place, unit in reversed([*enumerate(units.values())])}
    items.sort(key=lambda item: (-lengths[unit := units[file_of(item.nodeid)]], first[unit]))


def sum_seconds(
    reports: Iterable[pytest.TestReport],
) -> tuple[dict[str, float], dict[str, float], dict[str, int]]:
    """Seconds by folder and by file, and tests by folder."""
    folders: dict[str, float] = defaultdict(float)
    files: dict[str, float] = defaultdict(float)
    tests: dict[str, int] = defaultdict(int)
    for report in reports:
        folders[folder_of(report.nodeid)] += report.duration
        files[file_of(report.nodeid)] += report.duration
        tests[folder_of(report.nodeid)] += report.when == "call"
    return folders, files, tests


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the seconds of all processes together, by folder and for the longest files."""
    folders, files, tests = sum_seconds(_reports(terminalreporter))
    if len(files) < 2:
        return
    terminalreporter.section("durations by folder")
    for folder, seconds in sorted(folders.items(), key=lambda pair: -pair[1]):
        terminalreporter.write_line(f"{seconds:8.1f} s {tests[folder]:5d} tests  {folder}")
    terminalreporter.write_line(
        f"{sum(folders.values()):8.1f} s {sum(tests.values()):5d} tests  together"
    )
    terminalreporter.section("the longest files")
    for file, seconds in sorted(files.items(), key=lambda pair: -pair[1])[:25]:
        terminalreporter.write_line(f"{seconds:8.1f} s  {file}")


def _reports(terminalreporter: pytest.TerminalReporter) -> Iterator[pytest.TestReport]:
    for reports in terminalreporter.stats.values():
        yield from (report for report in reports if isinstance(report, pytest.TestReport))
