"""What stands at the front end's root: for a person a page, for a program the same in a few words of JSON."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, FileSystemLoader

from serving.catalog import Catalog
from serving.errors import Unavailable
from serving.link import ClusterLink
from serving.router import Router

MOST_MODELS = 200
_STORE_TIMEOUT_S = 5.0
_FOLDER = Path(__file__).parent
_STYLE, _SCRIPT = ((_FOLDER / f"front.{kind}").read_text() for kind in ("css", "js"))
_PAGE = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True).get_template("front.html")
_OURS = {
    "API reference": "/docs",
    "Metrics": "/metrics",
    "Status": "/admin/status",
    "Cold starts": "/admin/cold-starts",
}


def _hash(text: str) -> str:
    """How a policy names what may stand in a page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_POLICY = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class ModelLine:
    """A model as it stands: `states` are those of its replicas, none while it costs nothing."""

    name: str
    states: tuple[str, ...]
    nodes: tuple[str, ...]
    requests: int


class FrontPage:
    """The route. `links` are what else there is to look at, by name; pages are rendered with everything escaped, and may
    load nothing from anywhere else."""

    def __init__(self, link: ClusterLink, catalog: Catalog, router: Router, links: Mapping[str, str]) -> None:
        self._link, self._catalog, self._router, self._links = link, catalog, router, links
        self.routes = APIRouter()
        for path in ("/", "/v1"):
            self.routes.add_api_route(path, self.page, methods=["GET"], include_in_schema=False)

    async def page(self, request: Request) -> Response:
        """HTML for who takes it, else JSON."""
        headers = {"Cache-Control": "no-store", "Vary": "Accept"}
        base_url = str(request.url.replace(path="/v1", query=""))
        if "text/html" not in request.headers.get("accept", ""):
            links = {name: str(request.url.replace(path=path, query="")) for name, path in _OURS.items()}
            told = {"name": "firsttoken", "openai_base_url": base_url, "links": links | dict(self._links)}
            return JSONResponse(told, headers=headers)
        fault, models = "", self._models([])
        try:
            async with asyncio.timeout(_STORE_TIMEOUT_S):
                models = self._models(await self._catalog.names())
        except (Unavailable, TimeoutError) as error:
            fault = str(error) or "the object store does not answer"
        html = _PAGE.render(
            style=_STYLE,
            script=_SCRIPT,
            base_url=base_url,
            links=_OURS | dict(self._links),
            fault=fault,
            models=models[:MOST_MODELS],
            more=max(0, len(models) - MOST_MODELS),
            body=json.dumps(_example(models[0].name if models else "MODEL")),
            model=models[0].name if models else "MODEL",
            nodes=self._nodes(),
        )
        headers["Content-Security-Policy"] = _POLICY
        return HTMLResponse(html, headers=headers)

    def _models(self, names: Sequence[str]) -> list[ModelLine]:
        """Those of these names and those that run, these first."""
        replicas: dict[str, list[dict[str, Any]]] = {}
        for replica in self._router.replicas():
            replicas.setdefault(str(replica["model"]), []).append(replica)
        return [
            ModelLine(
                name,
                tuple(str(each["state"]) for each in replicas.get(name, ())),
                tuple(dict.fromkeys(node for each in replicas.get(name, ()) for node in each["nodes"])),
                sum(int(each["requests"]) for each in replicas.get(name, ())),
            )
            for name in dict.fromkeys([*replicas, *names])
        ]

    def _nodes(self) -> list[dict[str, Any]] | None:
        """None while no scheduler answers."""
        client = self._link.client
        if client is None or not client.joined:
            return None
        return [
            {
                "name": node.name,
                "draining": node.draining or self._router.moves.is_drained(node.name),
                "shares": [
                    (_gib(used), _gib(whole))
                    for used, whole in (
                        (node.device_reserved_bytes, node.device_bytes),
                        (node.dram_used_bytes, node.dram_bytes),
                        (node.ssd_used_bytes, node.ssd_bytes),
                    )
                ],
            }
            for node in client.view().nodes
        ]


def _example(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello!"}]}


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f}"
