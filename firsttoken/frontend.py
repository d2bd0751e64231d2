"""The front end as the command line sees it: models, status, cold starts, and answers as they stream."""

import contextlib
import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

import httpx

from firsttoken.errors import NotUp, RequestFailed
from firsttoken.event_stream import EventReader

_CONNECT_TIMEOUT_S = 5.0
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; None leaves the choice to the front end."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    ignore_eos: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields of a request's body."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Piece:
    """What arrived next in a stream: text, or a note on a cold start under way, or at the end its reason and usage."""

    text: str = ""
    note: str = ""
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PhaseOfStart:
    """One phase of a cold start; times relative to the request's arrival."""

    name: str
    where: str
    start_s: float
    end_s: float
    size_bytes: int

    @property
    def bytes_per_s(self) -> float | None:
        """Mean rate, None where nothing was moved."""
        lasted_s = self.end_s - self.start_s
        return self.size_bytes / lasted_s if self.size_bytes and lasted_s > 0 else None


@dataclass(frozen=True)
class Expected:
    """What was predicted of a cold start; `parts` are seconds by name and overlap."""

    ttft_s: float
    ttft_bad_s: float | None
    parts: Mapping[str, float]


@dataclass(frozen=True)
class ColdStart:
    """The ledger of one cold start. `error` is measured / predicted - 1."""

    model: str
    degree: int
    nodes: tuple[str, ...]
    ttft_s: float | None
    phases: tuple[PhaseOfStart, ...]
    predicted: Expected | None = None
    error: float | None = None


class Frontend:
    """A connection to the front end at `url`; use as an async context. Raises NotUp and RequestFailed. What is for operators
    needs their `key`."""

    def __init__(self, url: str, request_timeout_s: float, key: str = "") -> None:
        self._url = url
        timeout = httpx.Timeout(request_timeout_s, connect=_CONNECT_TIMEOUT_S)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout, headers=headers, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._http.aclose()

    async def status(self) -> dict[str, Any]:
        """Nodes and replicas, as the front end reports them."""
        return await self._get("/admin/status", {})

    async def cold_starts(self, model: str, limit: int) -> list[ColdStart]:
        """The model's latest cold starts, newest first."""
        answer = await self._get("/admin/cold-starts", {"model": model, "limit": str(limit)})
        return starts_of(answer)

    async def explain(self, model: str, limit: int) -> dict[str, Any]:
        """Where the model would start now and why, and its latest cold starts. RequestFailed if there is no such model."""
        return await self._get(f"/admin/explain/{quote(model)}", {"limit": str(limit)})

    async def moves(self, limit: int) -> list[dict[str, Any]]:
        """The latest moves, newest first."""
        found: list[dict[str, Any]] = (await self._get("/v1/moves", {"limit": str(limit)}))["moves"]
        return found

    async def move(self, name: str) -> dict[str, Any]:
        """One move, as it stands."""
        return await self._get(f"/v1/moves/{quote(name, safe='')}", {})

    async def wish(self, wanted: Mapping[str, str]) -> dict[str, Any]:
        """The move that was ordered. RequestFailed says why none was."""
        return await self._post("/v1/moves", wanted)

    async def undrain(self, node: str) -> None:
        """Let the node take replicas again."""
        await self._post(f"/v1/nodes/{quote(node, safe='')}/undrain", {})

    async def chat(
        self, model: str, messages: Sequence[Mapping[str, str]], sampling: Sampling
    ) -> AsyncGenerator[Piece]:
        """The answer to a conversation, as it comes."""
        body = {"model": model, "messages": list(messages), **sampling.to_json()}
        async with aclosing(self._stream("/v1/chat/completions", body)) as pieces:
            async for piece in pieces:
                yield piece

    async def complete(self, model: str, prompt: str, sampling: Sampling) -> AsyncGenerator[Piece]:
        """The continuation of a prompt, as it comes."""
        body = {"model": model, "prompt": prompt, **sampling.to_json()}
        async with aclosing(self._stream("/v1/completions", body)) as pieces:
            async for piece in pieces:
                yield piece

    async def _get(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        with self._translated():
            response = await self._http.get(path, params=query)
            _check(response.status_code, response.content)
            answer: dict[str, Any] = response.json()
            return answer

    async def _post(self, path: str, body: Mapping[str, str]) -> dict[str, Any]:
        with self._translated():
            response = await self._http.post(path, content=_encoded(body), headers=_JSON)
            _check(response.status_code, response.content)
            answer: dict[str, Any] = response.json()
            return answer

    async def _stream(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Piece]:
        content = _encoded({**body, "stream": True, "stream_options": {"include_usage": True}})
        reader = EventReader()
        with self._translated():
            async with self._http.stream("POST", path, content=content, headers=_JSON) as response:
                if response.status_code != 200:
                    _check(response.status_code, await response.aread())
                async for data in response.aiter_bytes():
                    for event in reader.feed(data):
                        if event.comment:
                            yield Piece(note=event.comment)
                        elif event.data and event.data != "[DONE]":
                            yield _piece(json.loads(event.data))

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise NotUp(f"no front end answers at {self._url}: start one with `firsttoken up`") from error
        except httpx.TimeoutException as error:
            raise RequestFailed(f"{self._url} did not answer in time") from error
        except httpx.HTTPError as error:
            raise RequestFailed(f"{self._url} broke off: {type(error).__name__}: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise RequestFailed(f"{self._url} is not a firsttoken front end: {error!r}") from error


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RequestFailed("what was typed is not UTF-8 text: set the terminal's encoding (LANG) to UTF-8") from error


def _piece(event: Mapping[str, Any]) -> Piece:
    if "error" in event:
        raise RequestFailed(str(event["error"]["message"]))
    choice = (event.get("choices") or [{}])[0]
    text = choice["delta"].get("content") if "delta" in choice else choice.get("text")
    return Piece(text=text or "", finish_reason=choice.get("finish_reason"), usage=event.get("usage"))


def starts_of(answer: Mapping[str, Any]) -> list[ColdStart]:
    """The cold starts in an answer of the front end."""
    return [_cold_start(entry) for entry in answer["cold_starts"]]


def _cold_start(entry: Mapping[str, Any]) -> ColdStart:
    phases = tuple(
        PhaseOfStart(p["name"], p["where"], p["start_s"], p["end_s"], p["bytes"] or 0) for p in entry["phases"]
    )
    told, expected = entry.get("predicted"), None
    if told is not None:
        expected = Expected(told["ttft_s"], told.get("ttft_bad_s"), told.get("parts", {}))
    nodes, error = tuple(entry["nodes"]), entry.get("prediction_error")
    return ColdStart(entry["model"], entry["degree"], nodes, entry["ttft_s"], phases, expected, error)


def _check(status: int, content: bytes) -> None:
    if status == 200:
        return
    try:
        message = str(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = content[:200].decode(errors="replace").strip() or "no reason given"
    raise RequestFailed(f"{message} (HTTP {status})")
