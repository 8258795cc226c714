"""How the suite is spread over processes, which of its tests are slow, and where its seconds went.

A file is the unit that a process is given. Files that need the same costly session fixture are one
unit (`UNITS`), so that only one process pays for it and its memory. The longest units come first:
the processes then end at about the same time. This needs `--dist=loadscope --no-loadscope-reorder`;
the groups of pytest-xdist 3.8 itself (`loadgroup`) are without effect under pytest 9.2.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# Seconds of the files that take longest, on two cores. They decide the order and nothing else: a
# number that is out of date costs time only. Each run of the suite ends with the current ones.
SECONDS: dict[str, float] = {
    "tests/simulation/test_simulation.py": 150,
    "tests/runs/test_deletion.py": 50,
    "tests/training/test_sharding.py": 110,
    "tests/chaos/test_kills.py": 115,
    "tests/chaos/test_starved_runs.py": 130,
    "tests/chaos/test_two_controllers.py": 60,
    "tests/cluster/test_jobs.py": 80,
    "tests/annotation/test_kills_while_paying.py": 130,
    "tests/bench/test_sweep.py": 65,
    "tests/whole_runs/test_annotators.py": 100,
    "tests/whole_runs/test_run.py": 75,
    "tests/whole_runs/test_dry_run.py": 75,
    "tests/whole_runs/test_real_models.py": 105,
    "tests/whole_runs/test_budgets.py": 65,
    "tests/whole_runs/test_evaluation.py": 60,
    "tests/whole_runs/test_every_strategy.py": 60,
    "tests/whole_runs/test_select_command.py": 60,
    "tests/gpu/test_logical_gpus.py": 170,
    "tests/gpu/test_gpu_service.py": 80,
    "tests/bench/test_results.py": 60,
    "tests/annotation/test_dispatcher.py": 70,
    "tests/web/test_annotate.py": 70,
    "tests/web/test_desk.py": 60,
    "tests/web/test_people_pages.py": 85,
    "tests/chaos/test_node_deaths.py": 90,
    "tests/cluster/test_nodes_apart.py": 240,
    "tests/cluster/test_two_cores.py": 80,
    "tests/cluster/test_by_hand.py": 170,
    "tests/cluster/test_service.py": 90,
    "tests/attack/test_ray_ports.py": 50,
    "tests/whole_runs/test_fork.py": 45,
    "tests/selection/test_select_batch.py": 30,
    "tests/training/test_methods.py": 30,
    "tests/training/test_training_on_nodes.py": 100,
    "tests/plugins/test_plugin_packages.py": 30,
    "tests/annotation/test_other_batches.py": 60,
    "tests/annotation/test_provider_troubles.py": 45,
}

# The files that need a fixture of the session that starts something: Serve, or Ray alone. A file that
# needs both is under the first. Collection fails for one that is not named here.
UNITS: dict[str, tuple[str, ...]] = {
    "serve_url": (
        "tests/serving/test_fine_tuning.py",
        "tests/serving/test_generated_client.py",
        "tests/serving/test_hang_ups.py",
        "tests/serving/test_http.py",
        "tests/serving/test_human_run.py",
        "tests/serving/test_openai_client.py",
        "tests/serving/test_own_annotator.py",
        "tests/serving/test_select.py",
        "tests/serving/test_served_run.py",
        "tests/serving/test_vllm_replica.py",
        "tests/web/test_run_pages.py",
        "tests/web/test_sign_in.py",
    ),
    "ray_session": (
        "tests/api/test_api_running.py",
        "tests/api/test_api_scoring.py",
        "tests/attack/test_datasets.py",
        "tests/data/test_readers.py",
        "tests/data/test_reading.py",
        "tests/data/test_sources.py",
        "tests/embedding/test_embedding.py",
        "tests/engines/test_adapter_effects.py",
        "tests/engines/test_sglang_engine.py",
        "tests/engines/test_transformers_engine.py",
        "tests/engines/test_vllm_engine.py",
        "tests/preflight/test_inputs.py",
        "tests/preflight/test_packages.py",
        "tests/preflight/test_preflight_placement.py",
        "tests/presets/test_hub_layouts.py",
        "tests/presets/test_presets.py",
        "tests/ray_runtime/test_forks.py",
        "tests/ray_runtime/test_session.py",
        "tests/ray_runtime/test_workers.py",
        "tests/runs/test_stored_selection.py",
        "tests/selection/test_ray_pool.py",
        "tests/serving/test_errors.py",
        "tests/training/test_sharding.py",
        "tests/training/test_training.py",
        "tests/whole_runs/test_annotators.py",
        "tests/whole_runs/test_audited_run.py",
        "tests/whole_runs/test_budgets.py",
        "tests/whole_runs/test_dry_run.py",
        "tests/whole_runs/test_evaluation.py",
        "tests/whole_runs/test_every_strategy.py",
        "tests/whole_runs/test_given_run.py",
        "tests/whole_runs/test_target_run.py",
    ),
}
_UNIT_OF = {file: unit for unit, files in UNITS.items() for file in files}

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
    "tests/whole_runs/",
    "tests/web/",
    "tests/annotation/test_kills_while_paying.py",
    "tests/attack/test_ray_ports.py",
    "tests/bench/test_results.py",
    "tests/bench/test_sweep.py",
    "tests/ray_runtime/test_placement.py",
    "tests/training/test_training_on_nodes.py",
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


def unit_of(file: str) -> str:
    """The unit of a file: the fixture that it shares with others, or the file itself."""
    return _UNIT_OF.get(file, file)


def find_missing(items: Iterable[pytest.Item]) -> list[str]:
    """A line for each file that needs a fixture of `UNITS` and stands in none of them."""
    needed: dict[str, set[str]] = defaultdict(set)
    for item in items:
        needed[file_of(item.nodeid)].update(getattr(item, "fixturenames", ()))
    return [
        f"{file} needs the fixture {fixture}: name it in UNITS of tests/helpers/suite.py"
        for file, fixtures in needed.items()
        if file not in _UNIT_OF
        for fixture in UNITS
        if fixture in fixtures
    ]


class UnitScheduling(LoadScopeScheduling):
    """Gives a process one unit after another."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(file_of(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> UnitScheduling | None:
    """Spread the suite by units under `--dist=loadscope`."""
    return UnitScheduling(config, log) if config.getvalue("dist") == "loadscope" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is slow, names the units, and puts those first that take longest.

    Tests of one file stay together and in their order.
    """
    if missing := find_missing(items):
        raise pytest.UsageError("\n".join(missing))
    units = {file: unit_of(file) for file in dict.fromkeys(file_of(item.nodeid) for item in items)}
    lengths: dict[str, float] = defaultdict(float)
    for file, unit in units.items():
        lengths[unit] += SECONDS.get(file, 0.0)
    for unit in set(UNITS) & set(lengths):
        lengths[unit] = float("inf")  # by far the longest, whatever their files are measured at
    for item in items:
        if is_slow(item.nodeid, getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    first = {unit: place for place, unit in reversed([*enumerate(units.values())])}
    items.sort(key=lambda item: (-lengths[unit := units[file_of(item.nodeid)]], first[unit]))


def ends_unit(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Whether `item` is the last test of a unit that shares a fixture of `UNITS`.

    No other unit needs the fixture, which would take memory and a share of a core to the end of the
    session.
    """
    unit = unit_of(file_of(item.nodeid))
    return unit in UNITS and (nextitem is None or unit_of(file_of(nextitem.nodeid)) != unit)


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
