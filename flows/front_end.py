"""The operators' side of the front end's API, as flows use it: moves, plans, what came, and what it has to tell."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import httpx

from flows.errors import FrontEndAway, Refused, Unanswered, Unintelligible
from flows.foreseeing.minutes import Heard, read_minutes
from flows.moving.moves import Move, Wish, read_move
from schedules.facts import ModelKey, Node, Rate
from schedules.foresight.past import Past
from schedules.foresight.plan import Plan
from schedules.foresight.spoken import plan_as_json
from schedules.lifecycle import State
from schedules.moving.plan import Step
from schedules.traces.happened import Asked

ANSWERS_WITHIN_S = 10.0
SILENT_AFTER_S = 7.0
"""The front end says every two seconds that it is there."""
LONGEST_REASON = 500
_CONNECTS_WITHIN_S = 2.0
_NAMED = 20
"""Of more models all are asked for: a URL has room for so many."""
_UP = (State.STARTING, State.SERVING)
_SIZES = (
    "dram_bytes", "dram_used_bytes", "ssd_bytes", "ssd_used_bytes", "device_bytes", "device_reserved_bytes",
    "context_bytes",
)  # fmt: skip
_PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody, and is made once: httpx would read all authorities' certificates each time, and the API speaks no TLS."""


@dataclass(frozen=True)
class Standing:
    """How many nodes there are, and the nodes of replicas that are up or coming, by model: one tuple a replica."""

    nodes: int
    running: Mapping[ModelKey, tuple[tuple[str, ...], ...]]


@dataclass(frozen=True)
class FrontEnd:
    """Where its API is, and the key that operators show it; "" for what everybody may ask."""

    url: str
    key: str = field(repr=False)

    async def order(self, wish: Wish) -> Move:
        """Have a move ordered whose steps the caller drives. FrontEndAway if nothing was ordered, Refused with the sentence.

        Unanswered if the move may have been ordered: it must not be asked for again.
        """
        body = {**asdict(wish), "carrier": "caller"}
        try:
            return read_move(await self._ask("POST", "/v1/moves", body))
        except httpx.ConnectError as error:
            raise FrontEndAway(f"the front end at {self.url} cannot be reached: {error}") from error
        except FrontEndAway as error:
            raise Unanswered(str(error)) from error
        except httpx.TransportError as error:
            raise Unanswered(f"the front end did not answer whether it ordered the move: {error!r}") from error

    async def move(self, name: str) -> Move:
        """The move as it stands. Refused if it is not known."""
        return read_move(await self._ask_again("GET", f"/v1/moves/{name}"))

    async def go_on(self, name: str, step: Step, within_s: float) -> Move:
        """Say that the move may go on from `step`, and return it when what follows is over, or after `within_s`."""
        body = {"step": step.value, "timeout_s": within_s}
        return read_move(await self._ask_again("POST", f"/v1/moves/{name}/go_on", body, within_s))

    async def give_up(self, name: str, reason: str) -> Move:
        """Say that nobody wants the move any more."""
        return read_move(
            await self._ask_again("POST", f"/v1/moves/{name}/give_up", {"reason": reason[:LONGEST_REASON]})
        )

    async def heard(self, since_s: float, until_s: float, models: Sequence[str] = ()) -> Heard:
        """What came minute by minute from that of `since_s` to `until_s` (unix seconds): for `models`, also where nothing
        did, or for all that anything came for."""
        some = [("model", name) for name in models] if len(models) <= _NAMED else []
        query = httpx.QueryParams([("since", f"{since_s:.3f}"), ("until", f"{until_s:.3f}"), *some])
        told = await self._ask_again("GET", f"/admin/minutes?{query}")
        return await asyncio.to_thread(read_minutes, told, models)

    async def past(self, since_s: float, until_s: float, models: Sequence[str] = ()) -> Past:
        """The same, as forecasts look at it."""
        return (await self.heard(since_s, until_s, models)).past

    async def planned(self, plan: Plan) -> Mapping[str, Any]:
        """Have it follow a plan of prewarming, but for what nodes do of it; what it says to that. Refused if it has a later
        one."""
        body = plan_as_json(replace(plan, dram={}, ssd={}))
        answer: Mapping[str, Any] = await self._ask_again("POST", "/admin/plan", body)
        return answer

    async def standing(self) -> Standing:
        """What runs now."""
        try:
            return _standing(await self._ask_again("GET", "/admin/status"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Unintelligible(f"the front end at {self.url} says what is no status: {error!r}") from error

    async def nodes(self) -> tuple[Node, ...]:
        """The nodes that are there, with what they have measured."""
        try:
            return tuple(map(_node, (await self._ask_again("GET", "/admin/status"))["nodes"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Unintelligible(f"the front end at {self.url} says what are no nodes: {error!r}") from error

    async def cold_starts(self, limit: int) -> list[Mapping[str, Any]]:
        """The ledgers of the latest, newest first, as `/admin/cold-starts` has them."""
        told = await self._ask_again("GET", f"/admin/cold-starts?limit={limit}")
        found = told.get("cold_starts")
        if not isinstance(found, list):
            raise Unintelligible(f"the front end at {self.url} says what are no cold starts")
        return found

    async def requests(self, since_s: float, until_s: float) -> list[Asked]:
        """What came from `since_s` to before `until_s` (unix seconds), by time, as far as the front end's history knows."""
        path, found = f"/admin/requests?since={since_s:.3f}&until={until_s:.3f}", list[Asked]()
        try:
            timeout = httpx.Timeout(ANSWERS_WITHIN_S, connect=_CONNECTS_WITHIN_S)
            async with self._client(timeout) as client, client.stream("GET", path) as answer:
                if answer.is_error:
                    await answer.aread()
                    _complain(answer)
                async for line in answer.aiter_lines():
                    told = _object(line)
                    if told == {"requests": len(found)}:
                        return found
                    found.append(Asked(**told))
        except TypeError as error:
            raise Unintelligible(f"the front end at {self.url} says what is no request: {error}") from error
        except httpx.TransportError as error:
            raise FrontEndAway(f"the front end at {self.url} does not answer: {error!r}") from error
        raise FrontEndAway(f"the front end at {self.url} broke off")

    async def notices(self) -> AsyncIterator[dict[str, Any]]:
        """What the front end has to tell, from now on. Ends, or is FrontEndAway, when it is silent or gone."""
        timeout = httpx.Timeout(SILENT_AFTER_S, connect=_CONNECTS_WITHIN_S)
        try:
            async with self._client(timeout) as client, client.stream("GET", "/v1/notices") as answer:
                if answer.is_error:
                    await answer.aread()
                    _complain(answer)
                async for line in answer.aiter_lines():
                    if line.strip():
                        yield _object(line)
        except httpx.TransportError as error:
            raise FrontEndAway(f"the front end at {self.url} tells nothing: {error!r}") from error

    def _client(self, timeout: httpx.Timeout) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=timeout, verify=_PLAIN, trust_env=False)

    async def _ask(self, method: str, path: str, body: Any = None, within_s: float = 0.0) -> Any:
        async with self._client(httpx.Timeout(within_s + ANSWERS_WITHIN_S, connect=_CONNECTS_WITHIN_S)) as client:
            answer = await client.request(method, path, json=body)
        if answer.is_error:
            _complain(answer)
        return _object(answer.text)

    async def _ask_again(self, method: str, path: str, body: Any = None, within_s: float = 0.0) -> Any:
        """As _ask, for what may be asked twice: without an answer it is FrontEndAway."""
        try:
            return await self._ask(method, path, body, within_s)
        except httpx.TransportError as error:
            raise FrontEndAway(f"the front end at {self.url} does not answer: {error!r}") from error


def _complain(answer: httpx.Response) -> None:
    """FrontEndAway if the front end cannot now, else Refused with the sentence that it gave."""
    try:
        sentence = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        sentence = f"HTTP {answer.status_code}"
    if answer.is_server_error:
        raise FrontEndAway(f"the front end cannot do it now: {sentence}")
    raise Refused(sentence)


def _standing(told: Mapping[str, Any]) -> Standing:
    running: dict[ModelKey, tuple[tuple[str, ...], ...]] = {}
    for replica in told["replicas"]:
        if replica["state"] in _UP and replica["nodes"]:
            key = ModelKey(str(replica["model"]), str(replica["digest"]))
            running[key] = (*running.get(key, ()), tuple(map(str, replica["nodes"])))
    return Standing(len(told["nodes"]), running)


def _node(told: Mapping[str, Any]) -> Node:
    sizes: dict[str, Any] = {name: int(told[name]) for name in _SIZES}
    rates = {name: Rate(**rate) for name, rate in told["rates"].items()}
    processes, where = told["stage_processes"], str(told["host"])
    return Node(
        name=str(told["name"]),
        address="",
        host=where,
        rendezvous_port=0,
        idle_stage_processes=int(processes["idle"]),
        busy_stage_processes=int(processes["busy"]),
        draining=bool(told["draining"]),
        rates=rates,
        machine=str(told["machine"]),
        gpu=str(told["gpu"]),
        **sizes,
    )


def _object(text: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except ValueError as error:
        raise Unintelligible(f"the front end says what is no JSON: {text[:80]!r}") from error
    if not isinstance(told, dict):
        raise Unintelligible(f"the front end says what is no object: {text[:80]!r}")
    return told
