"""A headless Chromium for tests, driven by its DevTools protocol: open a page, evaluate, press keys."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.programs import PROGRAMS
from tests.waiting import PATIENCE

_KEYS = {"Tab": 9, "Enter": 13, "Space": 32}


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self.requests: list[str] = []
        self.faults: list[str] = []

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; events that come meanwhile are noted."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = json.loads((await self._socket.receive()).data)
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        if message["method"] == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        if message["method"] in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.faults.append(json.dumps(message["params"]))

    async def open(self, url: str) -> None:
        """Go to a page."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.send(f"{domain}.enable")
        await self.send("Page.navigate", url=url)

    async def value(self, expression: str) -> Any:
        """Evaluate an expression in the page; a promise is awaited."""
        result = await self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        return result["result"].get("value")

    async def until(self, expression: str, seconds: float = PATIENCE) -> Any:
        """Wait until an expression is true; returns its value."""
        async with asyncio.timeout(seconds):
            while not (value := await self.value(expression)):  # noqa: ASYNC110  # the page tells nobody
                await asyncio.sleep(0.05)
        return value

    async def press(self, key: str, times: int = 1) -> None:
        """Press a key by its name, or type a character."""
        for _ in range(times):
            code = _KEYS.get(key, 0)
            text = {"Enter": "\r", "Space": " "}.get(key, "" if code else key)
            for kind in ("keyDown", "keyUp"):
                await self.send(
                    "Input.dispatchKeyEvent", type=kind, key=key, text=text if kind == "keyDown" else "",
                    windowsVirtualKeyCode=code,
                )  # fmt: skip


@asynccontextmanager
async def browser(*, dark: bool = False, width: int = 1200) -> AsyncIterator[Page]:
    """Run a browser with one empty tab."""
    chromium = PROGRAMS["chromium"].path
    assert chromium is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--remote-debugging-port=0", f"--user-data-dir={profile}", f"--window-size={width},1400",
            *(["--force-dark-mode"] if dark else []), "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            port_file = Path(profile) / "DevToolsActivePort"
            async with asyncio.timeout(PATIENCE):
                while not port_file.exists() or not port_file.read_text().strip():  # noqa: ASYNC110  # nor does it
                    await asyncio.sleep(0.05)
            port = port_file.read_text().split()[0]
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json") as reply:
                    tabs = await reply.json(content_type=None)
                url = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
                async with session.ws_connect(url, max_msg_size=0) as socket:
                    yield Page(socket)
        finally:
            process.terminate()
            await process.wait()
