"""POST /v1/embeddings over a cluster in memory: what is asked for, refused, held and counted."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from cluster.errors import StageFailed
from cluster.fake import FakeCluster
from cluster.fake_group import FakeGroup, vector
from cluster.wire.requests import Submit
from schedules import events
from schedules.actions import Shift
from serving.catalog import ServedModel
from serving.door.bodies import Bodies
from serving.door.handlers import add_handlers
from serving.embedding import routes
from serving.embedding.preparing import EmbeddingPreparer
from serving.embedding.routes import Embeddings
from serving.embedding.vectors import finished
from serving.errors import BadRequest
from serving.history.tables import Arrival
from serving.tickets import Ticket
from storage_tiers.pooling import Pooling
from tests.schedules.worlds import world_node
from tests.serving.local_server import served
from tests.serving.routed import Routed, routed, until
from tests.serving.routed import served as served_model

FAST = {"nic": 1e9, "decode": 1e12, "formed": 0.3}
SLOW = 400e6
"""At this rate of prefills a token of a prompt takes some 0.15 s."""
PLAIN = Pooling("mean")


def _model(pooling: Pooling | None, **config: Any) -> ServedModel:
    model = served_model("m")
    said = {**model.checkpoint.config, **config}
    return replace(model, checkpoint=replace(model.checkpoint, pooling=pooling, config=said))


class _Catalog:
    def __init__(self, model: ServedModel) -> None:
        self._model = model

    async def find(self, _name: str) -> Any:
        return self._model, True


class _Served:
    """The route alone, over a cluster in memory, at the speed that time has."""

    def __init__(self, now: Routed, port: int, arrivals: list[Arrival]) -> None:
        self.now, self.port, self.arrivals = now, port, arrivals

    async def ask(self, given: Any, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        async with httpx.AsyncClient(timeout=30.0) as client:
            url, body = f"http://127.0.0.1:{self.port}/v1/embeddings", {"model": "m", "input": given, **fields}
            return await client.post(url, json=body, headers=headers)

    async def refused(self, given: Any, **fields: Any) -> tuple[int, str, str]:
        """Status, field at fault, and what is said."""
        answer = await self.ask(given, **fields)
        error = answer.json()["error"]
        return answer.status_code, error["param"], error["message"]


@asynccontextmanager
async def front_end(
    pooling: Pooling | None = PLAIN,
    config: dict[str, Any] | None = None,
    timeout_s: float = 30.0,
    prefill: float | None = None,
    **more: Any,
) -> AsyncIterator[_Served]:
    rates = FAST if prefill is None else {**FAST, "prefill": prefill}
    async with routed((world_node("a", **rates),), **more) as now:
        app, arrivals = FastAPI(), list[Arrival]()
        preparer = EmbeddingPreparer(_Catalog(_model(pooling, **(config or {}))), now.router)  # type: ignore[arg-type]
        bodies = Bodies(1 << 20, 10.0, {})
        app.include_router(Embeddings(preparer, now.router, now.metrics, timeout_s, bodies, arrivals.append).routes)
        add_handlers(app)
        async with served(app) as port:
            yield _Served(now, port, arrivals)


def _expected(prompt: Sequence[int], mode: str = "mean") -> list[float]:
    return np.frombuffer(vector("m", prompt, mode), "<f4").tolist()


async def test_several_inputs_are_one_answer_in_their_order_and_are_counted_once() -> None:
    async with front_end() as there:
        answer = await there.ask([[1, 2, 3], [4], [1, 2, 3]])
        assert answer.status_code == 200
        found = answer.json()
        assert [each["embedding"] for each in found["data"]] == [_expected(p) for p in ([1, 2, 3], [4], [1, 2, 3])]
        assert [(each["object"], each["index"]) for each in found["data"]] == [("embedding", i) for i in range(3)]
        assert (found["object"], found["model"]) == ("list", "m")
        assert found["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
        (arrival,) = there.arrivals
        counted = arrival.model, arrival.prompt_tokens, arrival.max_tokens, arrival.generated_tokens, arrival.outcome
        assert counted == ("m", 7, 0, 0, "served")
        assert arrival.cold is True
        assert arrival.ttft_s is not None
        assert there.now.measured('firsttoken_prompt_tokens_total{model="m"}') == 7.0
        assert there.now.measured('firsttoken_requests_total{model="m",outcome="served"}') == 1.0
        assert there.now.measured('firsttoken_cold_starts_total{model="m",outcome="started"}') == 1.0
        assert there.now.measured('firsttoken_ttft_seconds_count{model="m",start="cold"}') == 3.0


async def test_headers_say_cold_or_warm_and_who_will_not_be_in_time_is_refused() -> None:
    async with front_end() as there:
        refused = await there.ask([1], {"X-Firsttoken-Deadline-S": "0.05"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "deadline_unreachable")
        assert refused.headers["retry-after"] == "1"
        cold, warm = await there.ask([1]), await there.ask([1])
        assert [answer.headers["x-firsttoken-start"] for answer in (cold, warm)] == ["starting", "warm"]
        assert {answer.headers["x-firsttoken-degree"] for answer in (cold, warm)} == {"1"}
        assert cold.headers["x-request-id"].startswith("embd-")


async def test_a_cold_start_for_a_vector_is_recorded_with_its_time() -> None:
    """Nothing is decoded, and yet it has given what was waited for."""
    async with front_end() as there:
        assert (await there.ask([5, 6])).status_code == 200
        await there.now.router.settle_ledger()
        (start,) = there.now.ledger.latest("m", 5)
        assert 0.3 <= start.ttft_s == pytest.approx(there.arrivals[0].ttft_s, abs=0.5)


@pytest.mark.parametrize("pooling", [PLAIN, Pooling("last"), Pooling("mean", True)], ids=["mean", "last", "normalised"])
async def test_the_checkpoint_says_how_and_whether_vectors_have_length_one(pooling: Pooling) -> None:
    async with front_end(pooling) as there:
        (only,) = (await there.ask([1, 2, 3])).json()["data"]
        expected = np.array(_expected([1, 2, 3], pooling.mode or ""))
        if pooling.normalized:
            expected /= np.linalg.norm(expected)
        assert np.allclose(only["embedding"], expected, rtol=1e-6)


async def test_base64_has_the_float32_bytes() -> None:
    async with front_end() as there:
        (only,) = (await there.ask([1, 2], encoding_format="base64")).json()["data"]
        assert base64.b64decode(only["embedding"]) == vector("m", [1, 2], "mean")


async def test_a_model_that_does_not_say_how_is_refused_with_what_could_be_done() -> None:
    async with front_end(None) as there:
        status, param, said = await there.refused("text")
        assert (status, param) == (400, "model")
        assert "does not say how its embeddings are pooled" in said
        assert "1_Pooling/config.json" in said
    async with front_end(Pooling(None, fault="it is pooled by cls_token")) as there:
        status, param, said = await there.refused("text")
        assert (status, param) == (400, "model")
        assert "it is pooled by cls_token" in said
        assert not there.now.groups(), "nothing is started for it"


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"input": []}, "input", "no tokens to embed"),
        ({"input": [[1], []]}, "input", "no tokens to embed"),
        ({"input": "text"}, "input", "published without a tokenizer"),
        ({"input": {"text": "a"}}, "input", "a list of lists of tokens"),
        ({"input": None}, "input", "a list of lists of tokens"),
        ({"input": [1, "a"]}, "input.1", "not a whole number"),
        ({"input": [-1]}, "input", "does not have"),
        ({"input": [5000]}, "input", "vocabulary of 256"),
        ({"input": [[1]] * 2049}, "input", "at most 2048"),
        ({"input": [1] * 513}, "input", "more than the 512 tokens of m's context"),
        ({"encoding_format": "hex"}, "encoding_format", "'float' or 'base64'"),
        ({"dimensions": 0}, "dimensions", "less than 1"),
        ({"dimensions": 4}, "dimensions", "does not say that its vectors may be cut"),
        ({"input_type": "query"}, "input_type", "not supported"),
        ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens", "not supported"),
    ],
    ids=lambda value: "-".join(value)[:20] if isinstance(value, dict) else "",
)
async def test_what_cannot_be_embedded_is_400_and_named(fields: dict[str, Any], param: str, said: str) -> None:
    async with front_end() as there:
        status, at_fault, message = await there.refused(**{"given": fields.pop("input", [1]), **fields})
        assert (status, at_fault) == (400, param)
        assert said in message
        assert there.arrivals == []


async def test_an_input_is_bounded_by_what_is_least() -> None:
    """The whole context may be one input: there is no answer to make room for."""
    async with front_end(replace(PLAIN, max_tokens=16)) as there:
        assert (await there.ask([1] * 16)).status_code == 200
        assert "16 that m embeds (max_seq_length)" in (await there.refused([1] * 17))[2]
    async with front_end() as there:
        assert (await there.ask([1] * 512)).status_code == 200


async def test_vectors_are_cut_where_the_model_says_that_they_may_be() -> None:
    async with front_end(Pooling("mean", True), {"is_matryoshka": True}) as there:
        (only,) = (await there.ask([1, 2], dimensions=3)).json()["data"]
        expected = np.array(_expected([1, 2])[:3])
        assert np.allclose(only["embedding"], expected / np.linalg.norm(expected), rtol=1e-6)
        assert "have 8 dimensions, not 9" in (await there.refused([1, 2], dimensions=9))[2]
    async with front_end(PLAIN, {"matryoshka_dimensions": [2, 4]}) as there:
        (only,) = (await there.ask([1, 2], dimensions=4)).json()["data"]
        assert only["embedding"] == _expected([1, 2])[:4]
        assert "has vectors of 2, 4 dimensions, not of 3" in (await there.refused([1, 2], dimensions=3))[2]


async def test_inputs_are_under_way_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that others' requests come in between; the first of each few waits as any request does, the rest with it."""
    monkeypatch.setattr(routes, "AT_ONCE", 3)
    admitted: list[int] = []
    async with front_end(max_held_per_model=1) as there:
        admit = there.now.router.admit

        def counted(model: ServedModel, submits: Sequence[Submit], *when: float) -> list[Ticket]:
            admitted.append(len(submits))
            return admit(model, submits, *when)

        monkeypatch.setattr(there.now.router, "admit", counted)
        found = (await there.ask([[i] for i in range(8)])).json()["data"]
        assert [each["embedding"] for each in found] == [_expected([i]) for i in range(8)]
        assert admitted == [3, 3, 2]


async def test_beyond_the_bound_none_is_let_in_and_what_fails_later_has_failed() -> None:
    class Failing(FakeCluster):
        async def form(self, *_: Any, **_how: Any) -> FakeGroup:
            raise StageFailed("its stages fell over")

    async with front_end(max_held_requests=0) as there:
        assert (await there.refused([1]))[0] == 429
        assert [arrival.outcome for arrival in there.arrivals] == ["refused"]
    async with front_end(kind=Failing) as there:
        assert (await there.refused([1]))[0] == 503
        assert [arrival.outcome for arrival in there.arrivals] == ["failed"]


async def test_a_client_that_leaves_and_a_deadline_end_what_was_asked() -> None:
    class Slow(FakeCluster):
        async def form(self, *_: Any, **_how: Any) -> FakeGroup:
            await asyncio.sleep(60.0)
            raise StageFailed("nobody waits any more")

    async with front_end(kind=Slow) as there:
        asking = asyncio.ensure_future(there.ask([[1], [2]]))
        await until(lambda: there.now.measured("firsttoken_held_requests") == 2.0)
        asking.cancel()
        await until(lambda: there.now.measured("firsttoken_held_requests") == 0.0)
        await until(lambda: there.arrivals)
        assert [arrival.outcome for arrival in there.arrivals] == ["cancelled"]
    async with front_end(kind=Slow, timeout_s=0.8) as there:
        assert (await there.refused([1]))[0] == 504
        assert [arrival.outcome for arrival in there.arrivals] == ["failed"]
        assert there.now.measured("firsttoken_held_requests") == 0.0


async def test_vectors_that_are_computed_are_given_up_when_nobody_waits_for_the_first_of_them() -> None:
    """They were computed to their end, be it for minutes, for whoever had left by a deadline of its own."""
    async with front_end(prefill=SLOW) as there:
        assert (await there.ask([1])).status_code == 200
        asked = await there.ask([[1] * 40] * 3, {"X-Firsttoken-Deadline-S": "0.5"})
        assert (asked.status_code, asked.json()["error"]["code"]) == (504, "request_timeout")
        assert "no vector within 0.5 s, which is as long as the client waits" in asked.json()["error"]["message"]
        assert there.now.measured("firsttoken_running_requests") == 0.0
        (group,) = there.now.cluster._groups.values()
        assert not group._streams
        assert [arrival.outcome for arrival in there.arrivals] == ["served", "failed"]


async def test_a_client_that_leaves_has_its_vectors_given_up_while_they_are_computed() -> None:
    async with front_end(prefill=SLOW) as there:
        assert (await there.ask([1])).status_code == 200
        asking = asyncio.ensure_future(there.ask([[1] * 40] * 3))
        (group,) = there.now.cluster._groups.values()
        await until(lambda: len(group._streams) == 3)
        asking.cancel()
        await until(lambda: not group._streams)
        assert there.now.measured("firsttoken_running_requests") == 0.0
        assert [arrival.outcome for arrival in there.arrivals] == ["served", "cancelled"]


async def test_a_group_that_is_lost_is_no_loss() -> None:
    """Nothing was told yet, so it is asked anew at the next group."""

    class Fragile(FakeCluster):
        lost = 0

        async def form(self, *args: Any, **how: Any) -> FakeGroup:
            group = await super().form(*args, **how)
            if Fragile.lost == 0:
                Fragile.lost += 1
                asyncio.get_running_loop().call_soon(group.lose, "for a test")
            return group

    async with front_end(kind=Fragile) as there:
        (only,) = (await there.ask([1, 2, 3])).json()["data"]
        assert only["embedding"] == _expected([1, 2, 3])
        assert Fragile.lost == 1


async def test_what_is_embedded_stays_where_it_is() -> None:
    """It would have to be computed anew elsewhere, and is over soon."""
    told: list[events.Event] = []
    submit = Submit("v", (1, 2), 2, 0, (), pooling="mean")
    ticket = Ticket("m", submit, 0.0, told.append, lambda _group: None, lambda _first: None)

    class Account:
        def __init__(self) -> None:
            self.reasons: list[str] = []

        def stayed(self, reason: str) -> None:
            self.reasons.append(reason)

    account = Account()
    ticket.shift(Shift("v", "a", "b", copy=False), account, lambda _work: None)  # type: ignore[arg-type]
    (stayed,) = told
    assert isinstance(stayed, events.RequestStayed)
    assert account.reasons == [stayed.reason]
    assert "computed anew" in stayed.reason


def test_a_vector_of_nothing_keeps_its_length() -> None:
    nothing = np.zeros(4, "<f4").tobytes()
    assert finished(nothing, None, normalized=True) == nothing
    with pytest.raises(BadRequest):
        finished(nothing, 5, normalized=False)
