"""What operators and a flow service ask of a front end, over HTTP: who may, what is refused, and a move from order to end."""

import asyncio
from typing import Any

import pytest

from tests.serving.operated import Operated, operated
from tests.serving.routed import said, until

LONG = 300
ROUTES = [
    ("GET", "/v1/moves"),
    ("POST", "/v1/moves"),
    ("GET", "/v1/moves/m1"),
    ("POST", "/v1/moves/m1/go_on"),
    ("POST", "/v1/moves/m1/give_up"),
    ("POST", "/v1/nodes/a/drain"),
    ("POST", "/v1/nodes/a/undrain"),
    ("GET", "/v1/notices"),
    ("POST", "/admin/plan"),
]


async def running(there: Operated) -> "asyncio.Task[list[int]]":
    """A client that is being answered by a pipeline."""
    answer = asyncio.ensure_future(there.answer(LONG))
    await until(lambda: any(len(each._done) > 20 for each in there.now.router._tickets.values()), 30.0)
    return answer


async def over(there: Operated, move: str) -> dict[str, Any]:
    async with asyncio.timeout(30.0):
        while True:
            found: dict[str, Any] = (await there.get(f"/v1/moves/{move}")).json()
            if found["step"] in ("done", "given up"):
                return found
            await asyncio.sleep(0.02)


# ---- who may


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_the_key_nothing_is_looked_at(method: str, path: str) -> None:
    async with operated() as there:
        there.key = "another key"
        answer = await (there.get(path) if method == "GET" else there.post(path, "no object"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "not_an_operator")
        assert there.now.router.notices.first() is None


async def test_keys_are_shown_as_bearers_and_an_empty_one_lets_nobody_in() -> None:
    async with operated(key="") as there:
        answer = await there._client.get("/v1/moves", headers={"Authorization": "Bearer"})
        assert answer.status_code == 401
    async with operated() as there:
        for header in ({}, {"Authorization": there.key}, {"Authorization": f"Basic {there.key}"}):
            answer = await there._client.get("/v1/moves", headers=header)
            assert answer.status_code == 401
        answer = await there._client.get("/v1/moves", headers={"Authorization": f"bearer  {there.key}"})
        assert (answer.status_code, answer.json()) == (200, {"moves": []})
        assert (await there._client.get("/admin/status")).status_code == 200


# ---- what is refused


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "kind"),
        ({"kind": "vanish"}, "kind"),
        ({"kind": "consolidate"}, "model"),
        ({"kind": "migrate", "model": "m"}, "node"),
        ({"kind": "migrate", "node": "a"}, "model"),
        ({"kind": "drain", "node": "a", "model": "m"}, "model"),
        ({"kind": "drain", "node": 5}, "node"),
        ({"kind": "drain", "node": "x" * 201}, "node"),
        ({"kind": "drain", "node": "a", "carrier": "pigeon"}, "carrier"),
        ({"kind": "drain", "node": "a", "nodes": "a"}, "nodes"),
    ],
)
async def test_what_cannot_be_meant_is_400_and_named(body: Any, param: str) -> None:
    async with operated() as there:
        answer = await there.post("/v1/moves", body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ({"kind": "drain", "node": "z"}, "node_not_found", "there are a, b, c"),
        ({"kind": "consolidate", "model": "nobody"}, "model_not_found", "nobody"),
        ({"kind": "migrate", "node": "a", "group": "g9"}, "group_not_found", "there are none"),
        ({"kind": "migrate", "node": "a", "request": "r9"}, "request_not_found", "r9"),
    ],
)
async def test_what_is_not_there_is_404(body: Any, code: str, says: str) -> None:
    async with operated() as there:
        answer = await there.post("/v1/moves", body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (404, code)
        assert says in error["message"]


async def test_moves_and_nodes_that_are_not_there_are_404() -> None:
    async with operated() as there:
        for answer in (
            await there.get("/v1/moves/m9"),
            await there.post("/v1/moves/m9/go_on", {"step": "ready"}),
            await there.post("/v1/moves/m9/give_up", {}),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "move_not_found")
        for what in ("drain", "undrain"):
            answer = await there.post(f"/v1/nodes/z/{what}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "node_not_found")
        answer = await there.post("/v1/moves/m9/go_on", {"step": "done"})
        assert answer.status_code == 400


async def test_what_the_brain_does_not_follow_is_409_with_its_sentence() -> None:
    async with operated() as there:
        answer = await there.post("/v1/moves", {"kind": "consolidate", "model": "m"})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (409, "move_refused")
        assert "does not run as a pipeline" in error["message"]


# ---- from order to end


async def test_a_move_that_nobody_listens_for_is_carried_out_at_once() -> None:
    async with operated() as there:
        answer = await running(there)
        ordered = (await there.post("/v1/moves", {"kind": "consolidate", "model": "m", "node": "c"})).json()
        assert (ordered["kind"], ordered["carrier"]) == ("consolidate", "front end")
        assert [move["move"] for move in (await there.get("/admin/status")).json()["moves"]] == [ordered["move"]]
        done = await over(there, ordered["move"])
        assert (done["step"], done["requests"]["shifted"], len(done["pauses_s"])) == ("done", 1, 1)
        assert done["handovers"][0]["heirs"][0]["nodes"] == ["c"]
        assert not answer.done()
        assert await answer == said("m", LONG)
        assert (await there.get("/v1/moves", limit=5)).json() == {"moves": [done]}
        assert (await there.get("/v1/moves", limit=0)).status_code == 400


async def test_a_flow_service_that_listens_carries_it_out_step_by_step() -> None:
    async with operated() as there, there.heard() as heard:
        answer = await running(there)
        await until(lambda: heard, 10.0)
        ordered = (await there.post("/v1/moves", {"kind": "consolidate", "model": "m"})).json()
        await until(lambda: any(each["notice"] == "order" for each in heard), 10.0)
        (order,) = [each["move"] for each in heard if each["notice"] == "order"]
        assert (order["move"], order["carrier"], order["step"]) == (ordered["move"], "flow", "ordered")
        path = f"/v1/moves/{ordered['move']}/go_on"
        ready = (await there.post(path, {"step": "ordered", "timeout_s": 20})).json()
        assert ready["step"] == "ready"
        assert (await there.post(path, {"step": "ordered", "timeout_s": 0})).json()["step"] == "ready"
        done = (await there.post(path, {"step": "ready", "timeout_s": 20})).json()
        assert (done["step"], done["carrier"], done["requests"]["shifted"]) == ("done", "flow", 1)
        assert (await there.post(path, {"step": "ordered"})).json() == done
        await until(lambda: any(each["notice"] == "move" for each in heard), 10.0)
        assert heard[-1]["move"] == done
        assert await answer == said("m", LONG)


async def test_whoever_asks_to_drive_the_steps_does_and_may_give_it_up() -> None:
    async with operated() as there:
        answer = await running(there)
        wish = {"kind": "consolidate", "model": "m", "carrier": "caller"}
        ordered = (await there.post("/v1/moves", wish)).json()
        assert (ordered["step"], ordered["carrier"]) == ("ordered", "caller")
        given_up = (await there.post(f"/v1/moves/{ordered['move']}/give_up", {"reason": "not today"})).json()
        assert (given_up["step"], given_up["why"]) == ("given up", "not today")
        assert await answer == said("m", LONG)


async def test_a_node_is_drained_and_says_so_until_it_is_undrained() -> None:
    async with operated() as there, there.heard() as heard:
        answer = await running(there)
        ordered = (await there.post("/v1/nodes/a/drain")).json()
        assert (ordered["kind"], ordered["node"]) == ("drain", "a")
        assert (await over(there, ordered["move"]))["step"] == "done"
        nodes = (await there.get("/admin/status")).json()["nodes"]
        assert [node["name"] for node in nodes if node["draining"]] == ["a"]
        assert (await there.post("/v1/nodes/a/drain")).status_code == 409
        assert (await there.post("/v1/nodes/a/undrain")).json() == {"node": "a", "draining": False}
        nodes = (await there.get("/admin/status")).json()["nodes"]
        assert not any(node["draining"] for node in nodes)
        assert await answer == said("m", LONG)
        told = [(each["node"], each["what"]) for each in heard if each["notice"] == "node"]
        assert told == [("a", "drained"), ("a", "undrained")]


async def test_a_request_is_named_by_its_answers_id() -> None:
    async with operated() as there:
        answer = await running(there)
        (name,) = there.now.router._tickets
        body = {"kind": "migrate", "node": "c", "request": name.removesuffix(".0.0")}
        refused = await there.post("/v1/moves", body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "move_refused")
        assert "no replica of m serves on node c" in refused.json()["error"]["message"]
        answer.cancel()


# ---- who listens


async def test_when_a_listener_goes_in_the_middle_the_front_end_goes_on_alone() -> None:
    async with operated() as there:
        answer = await running(there)
        async with there.heard() as heard:
            await until(lambda: heard, 10.0)
            ordered = (await there.post("/v1/moves", {"kind": "consolidate", "model": "m"})).json()
            assert ordered["carrier"] == "flow"
        done = await over(there, ordered["move"])
        assert (done["step"], done["carrier"]) == ("done", "front end")
        assert await answer == said("m", LONG)
        async with there.heard() as heard:
            await until(lambda: any(each["notice"] == "move" for each in heard), 10.0)
            late = [each for each in heard if each["notice"] in ("move", "cold_start")]
            assert all(each["late"] for each in late)
        await until(lambda: there.now.router.notices.first() is None, 10.0)


async def test_a_step_that_is_waited_for_is_let_go_of_with_its_client() -> None:
    async with operated() as there:
        answer = await running(there)
        wish = {"kind": "consolidate", "model": "m", "carrier": "caller"}
        ordered = (await there.post("/v1/moves", wish)).json()
        before = len(asyncio.all_tasks())
        waiting = asyncio.ensure_future(there.post(f"/v1/moves/{ordered['move']}/go_on", {"step": "ready"}))
        await asyncio.sleep(0.2)
        assert len(asyncio.all_tasks()) > before
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await until(lambda: len(asyncio.all_tasks()) <= before, 10.0)
        answer.cancel()
