"""The page: how soon a browser shows it, and what twenty clients that watch cost the daemon.

A rendezvous node as a real process, which schedules the packaged demo and has no volunteer. It is
asked by 20 clients of the stream and by none, in turns.
"""

import socket
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import trio
from playwright.sync_api import sync_playwright

from benchmarks.measure import Result, versus
from dipaco.cli.testnet.local_run import local_keys, local_run
from dipaco.cli.testnet.processes import LocalSwarm
from dipaco.node.api.client import ask_page, ask_status
from dipaco.node.network.identity import save_identity
from dipaco.node.runs.files import write_run
from dipaco.node.storage.files import Home
from tests.node.page.browser import CHROMIUM, OPTIONS

CLIENTS, TURNS, SECONDS = 20, 6, 5.0
LOADS = 9
SETTLE_SECONDS = 1.5  # for the clients to connect
ANY = "/ip4/127.0.0.1/tcp/0"
CORE_MARK = 2.0  # percent of a core
PAINT_MARK = 1000.0  # ms


def run() -> list[Result]:
    """Measure the processor time of the daemon and, where there is a browser, the first paint."""
    with tempfile.TemporaryDirectory(prefix="dipaco-bench-") as folder:
        return trio.run(_measured, Path(folder))


async def _measured(root: Path) -> list[Result]:
    home, keys = Home.at(root / "node"), local_keys(0)
    save_identity(home.identity, keys.rendezvous)
    write_run(root / "demo.run", local_run(None, seed=0, rounds=None).run)
    swarm = LocalSwarm({"DIPACO_UI_LISTEN": "127.0.0.1:0"})
    async with trio.open_nursery() as nursery:
        try:
            arguments = ["--rendezvous", "--listen", ANY, "--run", str(root / "demo.run")]
            node = await swarm.start(nursery, "node", home.root, arguments)
            await swarm.wait_ready(node)
            while not (await trio.to_thread.run_sync(ask_status, home.root)).swarm:
                await trio.sleep(0.5)
            results = [await trio.to_thread.run_sync(_watched, home.root)]
            if CHROMIUM is not None:
                results.append(await trio.to_thread.run_sync(_painted, home.root))
            return results
        finally:
            await swarm.close()
            nursery.cancel_scope.cancel()


def _watched(home: Path) -> Result:
    """Return the share of a core that the daemon needs with all clients, and with none."""
    process, url = psutil.Process(ask_status(home).pid), ask_page(home).url
    asked, quiet = list[float](), list[float]()
    for _ in range(TURNS):
        for clients, found in ((CLIENTS, asked), (0, quiet)):
            found.append(_share(process, url, clients))
    result = versus(f"CPU of the daemon, {CLIENTS} clients watch / the limit", asked, asked, "%")
    result |= {"peer": CORE_MARK, "ratio": result["ours"] / CORE_MARK, "mark": 1.0}
    result |= {"better": "lower", "samples": {"ours": asked, "none": quiet}}
    result["note"] = f"of a core; without a client {sorted(quiet)[TURNS // 2]:.2f} %"
    return result


def _share(process: psutil.Process, url: str, clients: int) -> float:
    over = threading.Event()
    threads = [threading.Thread(target=_watch, args=(url, over)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(SETTLE_SECONDS)
    before, begun = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(SECONDS)
    share = 100 * (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - begun)
    over.set()
    for thread in threads:
        thread.join()
    return share


def _watch(url: str, over: threading.Event) -> None:
    """Read the stream of the status until it is over."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    with socket.create_connection((parts.hostname, parts.port or 80)) as stream:
        stream.settimeout(0.5)
        token = f"Authorization: Bearer {parts.fragment}"
        head = f"GET /v1/stream HTTP/1.1\r\nHost: {parts.netloc}\r\n{token}\r\n\r\n"
        stream.sendall(head.encode())
        while not over.is_set():
            try:
                if not stream.recv(1 << 20):
                    return
            except TimeoutError:
                continue


def _painted(home: Path) -> Result:
    """Return the time to the first paint, with a browser that has never seen the page."""
    url, found = ask_page(home).url, list[float]()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        for _ in range(LOADS):
            context = browser.new_context()
            page = context.new_page()
            page.goto(url)
            page.wait_for_selector("#head .state")
            paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
            found.append(float(page.evaluate(paint)))
            context.close()
        browser.close()
    result = versus("first paint of the page / the limit", found, found, "ms")
    result |= {"peer": PAINT_MARK, "ratio": result["ours"] / PAINT_MARK, "mark": 1.0}
    result |= {"better": "lower", "samples": {"ours": found}}
    return result
