"""A page in a real browser, headless, over the DevTools protocol: what it drew, what it asked the network for, what it complained of."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@dataclass
class Seen:
    """What came of opening a page."""

    answer: Any = None
    """Of the expression that was waited for."""
    requests: list[str] = field(default_factory=list)
    """Addresses, the page's own aside."""
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings of the console, and exceptions."""


def see(page: Path, profile: Path, *, until: str, screenshot: Path | None = None, height: int = 5000, timeout_s: float = 60) -> Seen:
    """Open a page, wait until an expression of JavaScript is true, and close the browser.

    Args:
        page: An HTML file.
        profile: Folder for the browser's own files.
        until: The expression; its value is the answer.
        screenshot: PNG to write, of the whole page.
        height: Of the window, in pixels.
        timeout_s: For all of it.
    """
    assert BROWSER is not None
    arguments = [
        "--headless=new",
        "--no-sandbox",
        "--remote-debugging-port=0",
        f"--window-size=1200,{height}",
        f"--user-data-dir={profile}",
    ]
    process = subprocess.Popen([BROWSER, *arguments, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return asyncio.run(asyncio.wait_for(_see(page, profile / "DevToolsActivePort", until, screenshot), timeout_s))
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _see(page: Path, port_file: Path, until: str, screenshot: Path | None) -> Seen:
    while not port_file.exists() or not (port := port_file.read_text().partition("\n")[0]):
        await asyncio.sleep(0.05)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            (tab,) = [found for found in await answer.json(content_type=None) if found["type"] == "page"]
        async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            return await _visit(_Tab(socket, page.as_uri()), until, screenshot)


class _Tab:
    """Sends commands, and takes in what happens until their answer."""

    def __init__(self, socket: Any, address: str) -> None:
        self._socket, self.address, self._number = socket, address, 0
        self.seen = Seen()

    async def ask(self, method: str, **parameters: Any) -> Mapping[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            told = json.loads((await self._socket.receive()).data)
            if told.get("id") == self._number:
                assert "error" not in told, told
                return dict(told["result"])
            self._take_in(told["method"], told["params"])

    def _take_in(self, event: str, told: Mapping[str, Any]) -> None:
        if (
            event == "Network.requestWillBeSent"
            and (url := told["request"]["url"]) != self.address
            and not url.startswith(("data:", "blob:"))
        ):
            self.seen.requests.append(url)
        elif event == "Runtime.exceptionThrown":
            self.seen.complaints.append(json.dumps(told["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.seen.complaints.append(json.dumps(told["args"]))
        elif event == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.seen.complaints.append(told["entry"]["text"])


async def _visit(tab: _Tab, until: str, screenshot: Path | None) -> Seen:
    for domain in ("Network", "Runtime", "Log", "Page"):
        await tab.ask(f"{domain}.enable")
    await tab.ask("Page.navigate", url=tab.address)
    while not tab.seen.answer:
        await asyncio.sleep(0.1)
        found = await tab.ask("Runtime.evaluate", expression=until, returnByValue=True)
        tab.seen.answer = found["result"].get("value")
    if screenshot is not None:
        shot = await tab.ask("Page.captureScreenshot", captureBeyondViewport=True)
        screenshot.write_bytes(base64.b64decode(shot["data"]))
    return tab.seen
