"""Chromium, for pages to be looked at as a person would: without a network."""

import json
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

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
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
        "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}", "--dump-dom", "--timeout=60000",
    ]  # fmt: skip
    ran = subprocess.run(
        [browser(), *options, (folder / "look.html").as_uri()],
        capture_output=True, check=True, text=True, timeout=_DEADLINE_S,
    )  # fmt: skip
    _, _, told = ran.stdout.partition("<output>")
    console = "\n".join(line for line in ran.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(unescape(told.partition("</output>")[0])), console
