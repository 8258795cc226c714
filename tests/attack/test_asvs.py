"""The table of OWASP ASVS: whole, with tests that are there; and what no other test shows of it."""

import re
from pathlib import Path

from starlette.testclient import TestClient

from atgen_ray.serving.application import create_api, parse_service

ROOT = Path(__file__).parents[2]
# Requirements of version 5.0 at levels 1 and 2, by section: the numbers of each.
COUNTED = """1.1:2 1.2:9 1.3:11 1.4:3 1.5:2 2.1:3 2.2:3 2.3:4 2.4:1 3.2:2 3.3:4 3.4:6 3.5:5 3.7:2
4.1:3 4.2:1 4.3:2 4.4:4 5.1:1 5.2:3 5.3:2 5.4:3 6.1:3 6.2:12 6.3:4 6.4:4 6.5:5 6.6:3 6.8:4 7.1:3
7.2:4 7.3:2 7.4:5 7.5:2 7.6:2 8.1:2 8.2:3 8.3:1 8.4:1 9.1:3 9.2:4 10.1:2 10.2:2 10.3:4 10.4:11
10.5:5 10.6:2 10.7:3 11.1:2 11.2:3 11.3:3 11.4:4 11.5:1 11.6:1 12.1:3 12.2:2 12.3:4 13.1:1 13.2:5
13.3:2 13.4:5 14.1:2 14.2:4 14.3:3 15.1:3 15.2:3 15.3:7 16.1:1 16.2:5 16.3:4 16.4:3 16.5:3 17.1:1
17.2:4 17.3:2"""


def test_the_table_has_every_requirement_and_names_tests_that_are_there() -> None:
    text = (ROOT / "docs" / "asvs.md").read_text()
    rows = re.findall(r"^\| ([0-9., ]+) \| .+ \| (met|not met|not ours) \| (.+) \|$", text, re.M)
    numbers = [number for row in rows for number in row[0].split(", ")]
    sections = dict(each.split(":") for each in COUNTED.split())
    wanted = [f"{name}.{at + 1}" for name, count in sections.items() for at in range(int(count))]
    assert sorted(numbers) == sorted(wanted)
    for number, verdict, why in rows:
        named = re.findall(r"`((?:tests|docs)/[\w/.]+|SECURITY.md|test_\w+\.py)`", why)
        shown = named or re.search("rules? S[0-9]|bandit|nothing does|as they come", why)
        assert verdict != "met" or shown, number
        missing = {path for path in named if not [*ROOT.glob(path), *ROOT.glob(f"tests/*/{path}")]}
        assert not missing, number
    counted = re.findall(r"^\| together \| (\d+) \| (\d+) \| (\d+) \|$", read_security(), re.M)
    verdicts = [verdict for row in rows for verdict in [row[1]] * len(row[0].split(", "))]
    told = tuple(str(verdicts.count(each)) for each in ("met", "not met", "not ours"))
    assert counted == [told]


def read_security() -> str:
    return (ROOT / "SECURITY.md").read_text()


def test_other_origins_get_no_leave_and_trace_is_no_method(tmp_path: Path) -> None:
    client = TestClient(create_api(parse_service({"storage": str(tmp_path)}), None, None))
    answer = client.get("/healthz", headers={"Origin": "https://elsewhere.example"})
    assert [name for name in answer.headers if name.startswith("access-control")] == []
    preflight = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    asked = client.options("/healthz", headers=preflight)
    assert asked.status_code == 405
    assert [name for name in asked.headers if name.startswith("access-control")] == []
    assert client.request("TRACE", "/healthz").status_code == 405
