"""A front end that has moves and nothing else: it speaks the operators' API, and a test says how far its moves get."""

import asyncio
import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse

from schedules.moving.plan import Kind, Step

_ALIVE_S = 0.5
_NOTHING = {
    "arrived": 0, "refused": 0, "failed": 0, "cold": 0, "answered": 0, "ttft_s": None, "ttft_most_s": None,
}  # fmt: skip
_ENDS = (Step.DONE, Step.GIVEN_UP)


def told(name: str, kind: Kind, model: str = "tiny") -> dict[str, Any]:
    """The JSON of a move that has just been ordered."""
    return {
        "move": name, "kind": kind.value, "step": Step.ORDERED.value, "reason": f"{model} answers slowly", "why": "",
        "node": "", "request": "", "wish": "", "carrier": "flow", "predicted_s": {"ready": 1.5, "switch": 0.5},
        "handovers": [
            {"group": f"{name}-old", "model": model, "degree": 2, "nodes": ["node-1", "node-2"],
             "heirs": [{"group": f"{name}-new", "degree": 1, "nodes": ["node-2"]}]}
        ],
        "requests": {"shifted": 0, "stayed": 0, "copied": 0, "recomputed": 0, "copied_bytes": 0}, "pauses_s": [],
        "ordered_at": 1e9, "preparing_at": None, "ready_at": None, "switching_at": None, "done_at": None,
    }  # fmt: skip


class FrontEndDouble:
    """Moves get on as they are told to, but for models called ``held...``, which stay at PREPARING until `release`."""

    def __init__(self, key: str) -> None:
        self.moves: dict[str, dict[str, Any]] = {}
        self.said: list[tuple[str, str, float]] = []
        """What was said of moves: move, what, when by time.monotonic()."""
        self.nodes: list[dict[str, Any]] = [{
            "name": "node-1", "host": "127.0.0.1", "dram_used_bytes": 0, "dram_bytes": 2 << 30, "ssd_used_bytes": 0,
            "ssd_bytes": 20 << 30, "device_reserved_bytes": 0, "device_bytes": 4 << 30, "context_bytes": 0, "gpu": "",
            "machine": "box", "stage_processes": {"idle": 1, "busy": 0}, "draining": False,
            "rates": {"nic": {"mean": 1e9, "bad": 9e8, "samples": 4}},
        }]  # fmt: skip
        self.requests: list[dict[str, Any]] = []
        self.cold_starts: Any = []
        self.follows = True
        """Whether it takes plans of prewarming."""
        self.ends = True
        """Whether what is told of requests has its end."""
        self._key = key
        self._names = (f"double-{number}" for number in itertools.count(1))
        self._listeners: list[asyncio.Queue[dict[str, Any]]] = []
        self._unheard: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._stepped = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    # ---- what tests do

    def order(self, kind: Kind, model: str, *, carrier: str = "flow", node: str = "") -> str:
        """Order a move as the brain does, and tell whoever listens. Its name."""
        assert self._loop is not None
        return self._within(self._order(kind, model, node, carrier))

    def alone(self, name: str) -> None:
        """The front end says all that is to be said of the move."""
        self._within(self._alone(name))

    def release(self, name: str) -> None:
        """The move is no longer held."""
        self._within(self._step(name, Step.READY))

    def give_up(self, name: str, why: str) -> None:
        """The brain gives the move up."""
        self._within(self._step(name, Step.GIVEN_UP, why))

    def ordered(self, model: str, within_s: float = 20.0) -> str:
        """The name of the move of that model, once it is ordered."""

        def found() -> str:
            return next((name for name, move in self.moves.items() if move["handovers"][0]["model"] == model), "")

        with self._changed:
            if not self._changed.wait_for(found, within_s):
                raise TimeoutError(f"nothing of {model} is ordered")
        return found()

    def tell(self, notice: dict[str, Any]) -> None:
        """Tell whoever listens, or the next who does."""
        self._within(self._tell(notice))

    def wait(self, move: str, what: str, within_s: float = 20.0) -> float:
        """When `what` was said of the move. TimeoutError if it is not."""
        with self._changed:
            if not self._changed.wait_for(lambda: any(said[:2] == (move, what) for said in self.said), within_s):
                raise TimeoutError(f"{what} was not said of {move}: {self.said}")
        return next(at_s for name, said, at_s in self.said if (name, said) == (move, what))

    def listeners(self, number: int, within_s: float = 20.0) -> None:
        """Wait until so many listen."""
        deadline_s = time.monotonic() + within_s
        while len(self._listeners) != number:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{len(self._listeners)} listen, not {number}")
            time.sleep(0.02)

    def _within(self, work: Any) -> Any:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    # ---- moves

    async def _order(self, kind: Kind, model: str, node: str, carrier: str) -> str:
        name = next(self._names)
        self.moves[name] = told(name, kind, model) | {"node": node, "carrier": carrier, "ordered_at": time.time()}
        self._say(name, "ordered")
        if carrier == "flow":
            await self._tell({"notice": "order", "move": self.moves[name]})
        return name

    async def _alone(self, name: str) -> None:
        self.moves[name]["carrier"] = "front end"
        await self._step(name, Step.READY)
        await self._step(name, Step.DONE)

    async def _step(self, name: str, step: Step, why: str = "") -> None:
        move = self.moves[name]
        if Step(move["step"]) in _ENDS:
            return
        at_s = time.time()
        if step is Step.PREPARING:
            move["preparing_at"] = at_s
        if step is Step.READY:
            move["ready_at"] = at_s
        if step is Step.DONE:
            move["switching_at"] = at_s
            move["requests"] |= {"shifted": 2, "copied": 1, "recomputed": 1, "copied_bytes": 4096}
            move["pauses_s"] = [0.03, 0.05]
        move["step"], move["why"] = step.value, why
        self._stepped.set()
        self._stepped = asyncio.Event()
        if step in _ENDS:
            move["done_at"] = at_s
            await self._tell({"notice": "move", "move": move})
        self._say(name, step.value)

    async def _go_on(self, name: str, step: Step, timeout_s: float) -> None:
        move = self.moves[name]
        self._say(name, f"go on from {step.value}")
        if step is Step.ORDERED and Step(move["step"]) is Step.ORDERED:
            await self._step(name, Step.PREPARING)
            if "held" not in move["handovers"][0]["model"]:
                await self._step(name, Step.READY)
        elif step is Step.READY and Step(move["step"]) is Step.READY:
            await self._step(name, Step.DONE)
        waits = (Step.PREPARING,) if step is Step.ORDERED else (Step.PREPARING, Step.READY)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while Step(move["step"]) in waits:
                    await self._stepped.wait()

    def _say(self, name: str, what: str) -> None:
        with self._changed:
            self.said.append((name, what, time.monotonic()))
            self._changed.notify_all()

    async def _tell(self, notice: dict[str, Any]) -> None:
        notice = json.loads(json.dumps(notice))
        if self._listeners:
            self._listeners[-1].put_nowait(notice)
        elif notice["notice"] in ("move", "cold_start"):
            self._unheard.append(notice | {"late": True})

    # ---- the API

    def app(self) -> FastAPI:
        """The operators' routes."""
        app = FastAPI()

        @app.middleware("http")
        async def operators_alone(request: Request, call_next: Any) -> Any:
            if request.headers.get("authorization") != f"Bearer {self._key}":
                return _error(401, "the operator's key is missing or wrong")
            return await call_next(request)

        @app.exception_handler(HTTPException)
        async def complain(_request: Request, error: HTTPException) -> JSONResponse:
            return _error(error.status_code, str(error.detail))

        @app.get("/admin/status")
        async def status() -> Any:
            return {"nodes": self.nodes, "replicas": [], "moves": []}

        @app.get("/admin/requests")
        async def requests(since: float, until: float) -> Any:
            lines = [json.dumps(each) for each in self.requests if since <= each["at_s"] < until]
            whole = [*lines, json.dumps({"requests": len(lines)})]
            return StreamingResponse(iter([f"{line}\n" for line in whole[: len(lines) + self.ends]]))

        @app.get("/admin/minutes")
        async def minutes(since: float, until: float) -> Any:
            begin, models = since // 60 * 60, dict[str, dict[str, Any]]()
            for each in (each for each in self.requests if begin <= each["at_s"] < until):
                told = models.setdefault(each["model"], {"minutes": [], "last": 0.0, **_NOTHING})
                told["minutes"].append([int((each["at_s"] - begin) // 60), 1])
                told["last"] = max(told["last"], each["at_s"])
            return {"begin": begin, "until": until, "models": models}

        @app.get("/admin/cold-starts")
        async def cold_starts(limit: int) -> Any:
            return {"cold_starts": self.cold_starts[:limit] if isinstance(self.cold_starts, list) else self.cold_starts}

        @app.post("/admin/plan")
        async def follow(body: dict[str, Any]) -> Any:
            if not self.follows:
                raise HTTPException(503, "not yet")
            return {"until": body["until_s"], "kept": [], "ignored": []}

        @app.post("/v1/moves")
        async def order(body: dict[str, str]) -> dict[str, Any]:
            if body["model"] == "not-now":
                raise HTTPException(503, "wait")
            if body["model"] == "nothing-runs" or body["node"] == "no-such-node":
                raise HTTPException(409, f"nothing of {body['model'] or body['node']!r} can be moved")
            name = await self._order(Kind(body["kind"]), body["model"] or "tiny", body["node"], body["carrier"])
            return self.moves[name]

        @app.get("/v1/moves/{name}")
        async def move(name: str) -> dict[str, Any]:
            return self._known(name)

        @app.post("/v1/moves/{name}/go_on")
        async def go_on(name: str, body: dict[str, Any]) -> dict[str, Any]:
            move = self._known(name)
            await self._go_on(name, Step(body["step"]), body["timeout_s"])
            return move

        @app.post("/v1/moves/{name}/give_up")
        async def give_up(name: str, body: dict[str, str]) -> dict[str, Any]:
            await self._step(name, Step.GIVEN_UP, body["reason"])
            return self._known(name)

        @app.get("/v1/notices")
        async def notices() -> StreamingResponse:
            return StreamingResponse(self._notices(), media_type="application/x-ndjson")

        return app

    def _known(self, name: str) -> dict[str, Any]:
        if name not in self.moves:
            raise HTTPException(404, f"no move {name!r} is known")
        return self.moves[name]

    async def _notices(self) -> AsyncIterator[str]:
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for notice in self._unheard:
            queue.put_nowait(notice)
        self._unheard.clear()
        self._listeners.append(queue)
        try:
            while True:
                try:
                    async with asyncio.timeout(_ALIVE_S):
                        notice = await queue.get()
                except TimeoutError:
                    notice = {"notice": "alive"}
                yield json.dumps(notice) + "\n"
        finally:
            self._listeners.remove(queue)

    async def _serve(self, server: uvicorn.Server, listening: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        await server.serve(sockets=[listening])


@contextlib.contextmanager
def front_end_double(port: int, key: str) -> Iterator[FrontEndDouble]:
    """A double that listens at `port` until the block ends."""
    double = FrontEndDouble(key)
    listening = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(double.app(), log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(double._serve(server, listening)), daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield double
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "invalid_request_error"}}, status)
