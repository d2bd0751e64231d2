"""Chromium, for pages to be looked at as a person would: without a network."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_DEADLINE_S = 100.0
_LOOK = """
<body><script>
const look = () => {
  const seen = [...document.querySelectorAll("iframe")].map(frame => {
    const window = frame.contentWindow, page = window.document;
    return {
      width: window.innerWidth,
      room: page.documentElement.clientWidth,
      needed: page.documentElement.scrollWidth,
      asked: window.performance.getEntriesByType("resource").map(each => each.name),
      texts: [...page.querySelectorAll("svg text")].map(text => [text.textContent, text.getBoundingClientRect()])
        .filter(([, box]) => box.width > 0)
        .map(([words, box]) => [words, box.left, box.top, box.right, box.bottom]),
    };
  });
  const told = document.createElement("output");
  told.textContent = JSON.stringify(seen);
  document.body.append(told);
};
addEventListener("load", look);
</script>"""


_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)  # fmt: skip


def browser() -> str:
    """Its path; without one the test skips."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    return found


def looked_at(document: str, widths: tuple[int, ...], folder: Path) -> tuple[list[dict[str, Any]], str]:
    """What is seen of a document in windows of such widths: `width`, `room` and what it `needed`, what was `asked` for, and
    the pictures' `texts` with their boxes; and what the console said."""
    frames = "".join(
        f'<iframe width="{width}" height="800" style="border:0" srcdoc="{escape(document)}"></iframe>'
        for width in widths
    )
    (folder / "look.html").write_text(f"<!doctype html>{_LOOK}{frames}", encoding="utf-8")
    options = [
        *_OPTIONS, "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}", "--dump-dom", "--timeout=60000",
    ]  # fmt: skip
    ran = subprocess.run(
        [browser(), *options, (folder / "look.html").as_uri()],
        capture_output=True, check=True, text=True, timeout=_DEADLINE_S,
    )  # fmt: skip
    _, _, told = ran.stdout.partition("<output>")
    console = "\n".join(line for line in ran.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(unescape(told.partition("</output>")[0])), console


@dataclass
class Visit:
    """A page that a browser is at: what it `asked` for, and what the console `complained` of."""

    page: Page
    asked: list[str] = field(default_factory=list)
    complained: list[str] = field(default_factory=list)

    def sees(self, *texts: str) -> None:
        """Wait until each of these is to be seen. TimeoutError if one is not."""
        for text in texts:
            self.page.get_by_text(text).first.wait_for(timeout=_DEADLINE_S * 1000)


@contextlib.contextmanager
def browsing() -> Iterator[Browser]:
    """A browser that reaches servers of this machine alone, by their addresses."""
    path = browser()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=_OPTIONS)
        try:
            yield started
        finally:
            started.close()


@contextlib.contextmanager
def visited(started: Browser, url: str) -> Iterator[Visit]:
    """A page at `url`, in a window of its own."""
    context = started.new_context()
    try:
        visit = Visit(context.new_page())
        visit.page.on("request", lambda request: visit.asked.append(request.url))
        visit.page.on("console", lambda said: visit.complained.append(said.text) if said.type == "error" else None)
        visit.page.on("pageerror", lambda error: visit.complained.append(str(error)))
        visit.page.goto(url, timeout=_DEADLINE_S * 1000)
        yield visit
    finally:
        context.close()
