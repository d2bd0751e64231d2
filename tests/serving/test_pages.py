"""What a person sees at the front end: its own page and the API's reference, which load nothing from elsewhere."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.app import create_app
from serving.errors import Unavailable
from serving.pages.front import MOST_MODELS, FrontPage
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.tiny import make_tiny
from tests.told import frontend_config

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
URL = "http://localhost:8000"


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A front end that no scheduler answers, in front of a store with one model."""
    store_url = f"file://{tmp_path / 'store'}"
    publish(str(make_tiny("llama", tmp_path / "model", seed=3)), "org/tiny", ModelStore(ObjectStore(store_url)))
    app = create_app(frontend_config(store_url=store_url, links={"Prefect UI": "http://127.0.0.1:4200"}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/v1"])
async def test_a_browser_gets_a_page_and_a_program_gets_json(http: httpx.AsyncClient, path: str) -> None:
    page = await http.get(path, headers=BROWSER)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    for seen in ("org/tiny", "none: the next call is a cold start", "scheduler does not answer", f"{URL}/v1"):
        assert seen in page.text
    told = (await http.get(path)).json()
    assert told["openai_base_url"] == f"{URL}/v1"
    assert told["links"]["Prefect UI"] == "http://127.0.0.1:4200"
    assert told["links"]["API reference"] == f"{URL}/docs"


async def test_the_page_says_where_it_was_called(http: httpx.AsyncClient) -> None:
    page = await http.get("http://10.1.2.3:9000/", headers=BROWSER)
    assert (
        "base_url=&#34;http://10.1.2.3:9000/v1&#34;" in page.text or 'base_url="http://10.1.2.3:9000/v1"' in page.text
    )
    assert (await http.get("http://evil.example/", headers=BROWSER)).status_code == 403


@pytest.mark.parametrize("path", ["/", "/docs", "/redoc"])
async def test_pages_load_what_the_front_end_has(http: httpx.AsyncClient, path: str) -> None:
    page = await http.get(path, headers=BROWSER)
    assert page.status_code == 200
    assert page.headers["Content-Security-Policy"].startswith("default-src ")
    loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="([^"]+)"', page.text)
    for each in loaded:
        if each != "data:,":
            got = await http.get(each)
            assert got.status_code == 200, each
            assert got.headers["Content-Type"].startswith(
                {"css": "text/css", "js": "text/javascript"}[each.rpartition(".")[2]]
            )
            assert (await http.head(each)).headers["Content-Length"] == str(len(got.content))
    assert loaded


class _Front:
    """What a front page looks at, with names that nobody should have."""

    joined, client, moves = True, None, None

    def __init__(self, names: list[str] | None) -> None:
        self._names = names

    async def names(self) -> list[str]:
        if self._names is None:
            raise Unavailable("the object store does not answer: <em>closed</em>")
        return self._names

    def replicas(self) -> list[dict[str, Any]]:
        return [{"model": "<b>bold</b>", "state": "serving", "nodes": ["<i>"], "requests": 2}]


async def _page(names: list[str] | None) -> str:
    double: Any = _Front(names)
    page = FrontPage(double, double, double, {"<a>": "http://127.0.0.1/?<x>"})
    from fastapi import FastAPI

    app = FastAPI()
    app.include_router(page.routes)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client:
        return (await client.get("/", headers=BROWSER)).text


async def test_what_stands_in_a_page_is_text_whatever_it_is() -> None:
    text = await _page(["<script>alert(1)</script>", "</pre>"])
    for hostile in ("<b>", "<i>", "<a>", "<x>", "<script>alert", "<em>"):
        assert hostile not in text
    assert "&lt;b&gt;bold&lt;/b&gt;" in text


async def test_of_many_models_the_page_shows_some_those_that_run_first() -> None:
    text = await _page([f"m{number}" for number in range(MOST_MODELS + 4)])
    assert "and 5 more" in text
    assert text.index("bold") < text.index("<td>m0</td>")


async def test_a_store_that_is_away_is_told_beside_what_runs() -> None:
    text = await _page(None)
    assert "does not answer: &lt;em&gt;closed" in text
    assert "serving" in text
