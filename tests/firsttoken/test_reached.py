"""Whatever `up` says is there, a person finds in a browser, without an internet."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.browser import Visit, browser, browsing, visited
from tests.firsttoken.whole import environment_in, firsttoken, up

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def urls(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Of a platform that is up; where there is no browser it is not even started."""
    browser()
    with environment_in(tmp_path) as environment:
        platform = up(environment)
        yield json.loads(firsttoken(environment, "status", "--json").stdout)["urls"]
        platform.send_signal(signal.SIGINT)
        platform.communicate(timeout=60)


def _stayed_here(visit: Visit) -> None:
    """It asked the server that it came from, of which it complained in nothing."""
    here = urlsplit(visit.page.url).netloc
    assert {urlsplit(each).netloc for each in visit.asked if each.startswith("http")} == {here}
    assert visit.complained == []


def _asked_this_machine(visit: Visit) -> None:
    """Prefect's pages would tell its makers who looks at them; the browser is told to ask for nothing there."""
    assert {urlsplit(each).hostname for each in visit.asked if each.startswith("http")} <= {"127.0.0.1", "localhost"}
    assert any("/api/" in each for each in visit.asked)


def test_every_url_that_is_printed_shows_something_in_a_browser(urls: dict[str, str]) -> None:
    with browsing() as started:
        for name in ("page", "api"):
            with visited(started, urls.pop(name)) as visit:
                visit.sees("None is published yet", "node-1", "/v1/chat/completions")
                visit.page.evaluate("document.getElementById('now').append('no longer so')")
                visit.page.evaluate("dispatchEvent(new Event('focus'))")
                visit.page.wait_for_function("!document.getElementById('now').innerText.includes('no longer so')")
                visit.sees("node-1")
                _stayed_here(visit)
        with visited(started, urls.pop("docs")) as visit:
            visit.sees("/v1/chat/completions", "/admin/status", "Answer a conversation")
            _stayed_here(visit)
        with visited(started, urls.pop("dask")) as visit:
            visit.sees("Workers")
            visit.page.wait_for_selector(".bk-Figure canvas")
            _stayed_here(visit)
        with visited(started, prefect := urls.pop("prefect")) as visit:
            visit.sees("Dashboard", "Flow Runs")
            _asked_this_machine(visit)
        with visited(started, prefect.replace("127.0.0.1", "localhost")) as visit:  # it asks its API by the other name
            visit.sees("Dashboard", "Flow Runs")
            _asked_this_machine(visit)
    assert not urls
