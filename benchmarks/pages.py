"""The web pages: what they weigh without data, and how long a browser takes to their first paint.

    python benchmarks/pages.py --storage atgen-runs [--output benchmarks/results/pages] [--loads 15]

Serves the storage on this machine, in a process of its own without Ray, and opens each page in
headless Chromium: cold (a new browser profile each time) and with the styles and scripts kept. The
peer is an empty page from the same server: what browser and connection cost by themselves. Writes
PREFIX.json and PREFIX.md.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import httpx
from helpers.browsing import launch_chromium
from helpers.ports import free_port
from playwright.sync_api import Browser, BrowserContext, sync_playwright

PAINT = """() => new Promise(done => {
  const find = () => performance.getEntriesByName('first-contentful-paint')[0]?.startTime;
  if (find()) return done(find());
  new PerformanceObserver(() => find() && done(find())).observe({ type: 'paint', buffered: true });
})"""
EMPTY = "/empty"


def serve(storage: str, port: int) -> None:
    import uvicorn
    from fastapi.responses import HTMLResponse

    from atgen_ray.serving.application import create_api, parse_service

    app = create_api(parse_service({"storage": storage}), None, None)
    app.get(EMPTY, include_in_schema=False)(
        lambda: HTMLResponse("<!DOCTYPE html><title>empty</title><p>empty")
    )
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def open_context(browser: Browser, url: str, token: str | None) -> BrowserContext:
    context = browser.new_context(base_url=url)
    if token:
        context.add_cookies(
            [{"name": "atgen", "value": token, "url": url, "httpOnly": True, "sameSite": "Strict"}]
        )
    return context


def measure(browser: Browser, url: str, token: str | None, path: str, loads: int) -> dict[str, Any]:
    """Median milliseconds to the first contentful paint, and bytes of the page with its styles and
    scripts.
    """
    cold: list[float] = []
    warm: list[float] = []
    weights: dict[str, Any] = {}
    kept = open_context(browser, url, token)
    for _ in range(loads):
        fresh = open_context(browser, url, token)
        page = fresh.new_page()
        page.on("response", lambda answer: weights.update({answer.url: answer}))
        page.goto(path)
        cold.append(page.evaluate(PAINT))
        if len(cold) == 1:  # what the page's parts bring later is data
            shell = [
                each
                for name, each in weights.items()
                if "/parts/" not in name and "/api/" not in name
            ]
            weight = sum(len(each.body()) for each in shell)
        fresh.close()
        page = kept.new_page()
        page.goto(path)
        warm.append(page.evaluate(PAINT))
        page.close()
    kept.close()
    return {
        "page": path,
        "kilobytes": round(weight / 1000, 1),
        "cold_ms": round(statistics.median(cold)),
        "warm_ms": round(statistics.median(warm[1:])),
    }


def tabulate(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| page | kB without data | first paint, cold (ms) | kept styles (ms) | cold, over an "
        "empty page |"
    ]
    lines.append("|" + " --- |" * 5)
    lines += [f"| {' | '.join(str(value) for value in row.values())} |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--storage", required=True, help="holds at least two runs")
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/pages"), metavar="PREFIX"
    )
    parser.add_argument("--loads", type=int, default=15)
    arguments = parser.parse_args()
    from atgen_ray.runs.queries import list_runs
    from atgen_ray.serving.server import open_tokens

    first, second = [row["name"] for row in list_runs(arguments.storage, None)][:2]
    with open_tokens(arguments.storage) as tokens:
        token = tokens.create("admin", "benchmark")
    port = free_port()
    server = multiprocessing.get_context("spawn").Process(
        target=serve, args=(arguments.storage, port)
    )
    server.start()
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{url}/healthz")
        pages = [
            EMPTY,
            "/sign-in",
            "/",
            "/new?preset=demo",
            f"/runs/{first}",
            f"/compare?run={first}&run={second}",
        ]
        with sync_playwright() as playwright:
            browser = launch_chromium(playwright)
            rows = []
            for path in pages:
                rows.append(
                    measure(
                        browser, url, None if path == "/sign-in" else token, path, arguments.loads
                    )
                )
                print(rows[-1], flush=True)
            browser.close()
    finally:
        server.terminate()
        server.join()
        with open_tokens(arguments.storage) as tokens:
            tokens.revoke(token.split("_")[1])
    rows = [row | {"ratio": round(row["cold_ms"] / rows[0]["cold_ms"], 1)} for row in rows]
    prefix = arguments.output
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    prefix.with_suffix(".md").write_text(tabulate(rows))
    print(tabulate(rows))


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            httpx.get(url)
            return
        except httpx.TransportError:
            time.sleep(0.2)
    raise TimeoutError(url)


if __name__ == "__main__":
    main()
