"""The commands that look ahead, each run as a person or a script does, against a front end that remembers what came."""

import asyncio
import json
import queue
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import Refused
from cluster.fake import FakeCluster
from firsttoken.ports import free_port
from schedules.foresight.forecasters import FORECASTERS
from schedules.foresight.retention import Retention
from serving.history.history import History
from serving.history.tables import Arrival
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.asking import get
from tests.firsttoken.command_line import Done, clean_environment, run_here
from tests.schedules.worlds import world_node
from tests.serving.operated import KEY, operated
from tests.tiny import make_tiny

pytestmark = pytest.mark.timeout(120)


def calls(model: str, every_s: float, times: int, **more: Any) -> list[Arrival]:
    """The last of them just now, and each answered but one that waited for a start."""
    now_s = time.time() - 1.0
    return [
        Arrival(model, now_s - every_s * n, 3, 16, 7, "served", 0.5 + 2.0 * (n == 2), 1.0, n == 2, **more)
        for n in range(times)
    ]


async def remember(url: str, arrivals: Sequence[Arrival]) -> None:
    history = History(url, keep_days=1e5)
    history.start()
    for arrival in arrivals:
        history.add_arrival(arrival)
    await history.close()


def environment(home: Path, port: int, **settings: str) -> Mapping[str, str]:
    """Of somebody at a terminal whose settings lead to the front end."""
    return {
        **clean_environment(),
        "FIRSTTOKEN_HOME": str(home),
        "FIRSTTOKEN_FRONTEND__PORT": str(port),
        "FIRSTTOKEN_FRONTEND__OPERATOR_KEY": KEY,
        "COLUMNS": "200",
        **settings,
    }


@asynccontextmanager
async def remembering(folder: Path, arrivals: Sequence[Arrival]) -> AsyncIterator[Mapping[str, str]]:
    """A front end to which so much has come; the environment of who asks it."""
    url = f"sqlite:///{folder}/history.db"
    await remember(url, arrivals)
    history = History(url, keep_days=1e5)
    try:
        async with operated(history=history) as there:
            yield environment(folder, there.port)
    finally:
        await history.close()


async def run(told: Mapping[str, str], *arguments: str) -> Done:
    return await asyncio.to_thread(run_here, arguments, told)


# ---- forecast


async def test_a_model_is_shown_with_what_came_and_what_is_expected(tmp_path: Path) -> None:
    async with remembering(tmp_path, [*calls("often", 60.0, 300), *calls("seldom", 40_000.0, 4)]) as told:
        done = await run(told, "forecast", "often", "--horizon", "10min", "--method", "tsb")
        assert (done.returncode, done.stderr) == (0, "")
        assert re.search(r"requests a minute +[ █]█{58}[ █]│[▁-█]{10} ", done.stdout)
        assert re.search(r"called by then +│[▁-█]{10} ", done.stdout)
        assert re.search(r"came +300 requests in 14 d, the last \d+(\.\d+)? s ago", done.stdout)
        assert "1 waited for a start; first token after 0.51 s in the mean, 2.50 s at most" in done.stdout
        assert re.search(r"within 10 min +called with \d+ %; [\d.]+ requests expected", done.stdout)
        assert re.search(r"by +tsb", done.stdout)
        long = await run(told, "forecast", "often", "--horizon", "12h", "--method", "tsb")
        assert re.search(r"requests a minute +[▁-█]█{40,}[▁-█]│[▁-█]{102} ", long.stdout)
        told_all = await run(told, "forecast")
        names = re.findall(r"^ *(often|seldom) ", told_all.stdout, re.MULTILINE)
        assert names == ["often", "seldom"]
        first = await run(told, "forecast", "--limit", "1")
        assert "seldom" not in first.stdout
        chosen = await run(told, "forecast", "often")
        (method,) = re.findall(r"^by +([\w-]+)", chosen.stdout, re.MULTILINE)
        assert re.search(r"^why +tried on the hours before it cost ", chosen.stdout, re.MULTILINE)
        assert method in FORECASTERS
        assert "and 1 less likely" in first.stdout


async def test_a_script_reads_the_same(tmp_path: Path) -> None:
    async with remembering(tmp_path, [*calls("often", 60.0, 300), *calls("seldom", 40_000.0, 4)]) as told:
        one = json.loads((await run(told, "forecast", "often", "--method", "tsb", "--json")).stdout)
        assert (one["model"], one["method"], one["horizon_s"]) == ("often", "tsb", 900.0)
        assert one["low"] <= one["expected"] <= one["high"]
        assert len(one["expected_by_minute"]) == len(one["called_by_minute"]) == 15
        assert one["probability"] == one["called_by_minute"][-1]
        assert (one["came"]["arrived"], one["costs"]) == (300, {})
        many = json.loads((await run(told, "forecast", "--method", "tsb", "--json")).stdout)
        assert [each["model"] for each in many] == ["often", "seldom"]
        chosen = json.loads((await run(told, "forecast", "seldom", "--json")).stdout)
        assert chosen["costs"].keys() == FORECASTERS.keys() - {"chosen"}
        assert chosen["method"] in chosen["costs"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("forecast", "nobody"), "nobody has called 'nobody', and it is not published: see `firsttoken models`"),
        (("forecast", "a//b"), "model name 'a//b' will not do"),
        (("forecast", "often", "--horizon", "soon"), "the horizon: 'soon' is no time"),
        (("forecast", "often", "--horizon", "2d"), "the horizon: 172800 s is not from a minute to a day"),
        (("forecast", "--method", "dice"), "there is no method 'dice': there are keep-alive, "),
        (("prewarm", "--dry-run", "--method", "dice"), "there is no method 'dice': there are keep-alive, "),
    ],
)
async def test_what_cannot_be_shown_is_one_sentence(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    async with remembering(tmp_path, calls("often", 60.0, 3)) as told:
        done = await run(told, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"firsttoken: {says}")
    assert done.stderr.count("\n") == 1


async def test_who_has_called_nobody_is_told_that_there_is_nothing_to_go_by(tmp_path: Path) -> None:
    source = make_tiny("llama", tmp_path / "source")
    publish(str(source), "never", ModelStore(ObjectStore((tmp_path / "store").as_uri())))
    async with remembering(tmp_path, []) as told:
        done = await run(told, "forecast")
        assert done.stderr == (
            "firsttoken: no request came in the last 14 d: there is nothing to make a forecast of yet\n"
        )
        await remember(f"sqlite:///{tmp_path}/history.db", calls("often", 60.0, 3))
        done = await run(told, "forecast", "never")
        assert done.stderr == (
            "firsttoken: no request came for never in the last 14 d: there is nothing to make a forecast of yet\n"
        )


def test_without_a_front_end_or_a_cluster_that_is_said(tmp_path: Path) -> None:
    port = free_port()
    nobody = environment(tmp_path, port)
    for arguments in (("forecast",), ("forecast", "m", "--json")):
        done = run_here(arguments, nobody)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"firsttoken: no front end answers at http://127.0.0.1:{port}: start one with `firsttoken up`\n"
        )
    done = run_here(("prewarm", "--dry-run"), {**nobody, "FIRSTTOKEN_CLUSTER__SCHEDULER_PORT": str(free_port())})
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"firsttoken: .*scheduler.*\n", done.stderr)


# ---- prewarm


class Nodes(FakeCluster):
    """What the command takes for the cluster. A tiny model takes a while to come to its nodes, and nobody else's does."""

    latest: "Nodes"

    def __init__(self, *_address: object) -> None:
        super().__init__([world_node(name, nic=2e5, formed=0.1) for name in "abc"])
        self.told_to_keep: set[str] = set()
        Nodes.latest = self

    async def retain(self, node: str, dram: Retention, ssd: Retention, for_s: float) -> None:
        await super().retain(node, dram, ssd, for_s)
        self.told_to_keep.add(node)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """That of the home, with a model that is called often."""
    store = ModelStore(ObjectStore((tmp_path / "store").as_uri()))
    publish(str(make_tiny("llama", tmp_path / "source")), "often", store)
    return store


@pytest.fixture
def told(tmp_path: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mapping[str, str]]:
    """A front end in a thread of its own, for the command takes signals in the first one."""
    monkeypatch.setattr("cluster.client.ClusterClient", Nodes)
    found, over = queue.SimpleQueue[Mapping[str, str]](), threading.Event()

    async def serve() -> None:
        async with remembering(tmp_path, [*calls("often", 60.0, 200), *calls("gone", 60.0, 3)]) as environment:
            found.put({**environment, "FIRSTTOKEN_PREWARM__DEVICE_SHARE": "0"})
            await asyncio.to_thread(over.wait)

    serving = threading.Thread(target=lambda: asyncio.run(serve()))
    serving.start()
    try:
        yield found.get(timeout=60.0)
    finally:
        over.set()
        serving.join(60.0)


def in_force(told: Mapping[str, str]) -> Any:
    return get(f"http://127.0.0.1:{told['FIRSTTOKEN_FRONTEND__PORT']}/admin/plan").json()


def test_a_plan_is_shown_with_its_reasons_and_nothing_is_done_of_it(told: Mapping[str, str]) -> None:
    dry = run_here(("prewarm", "--dry-run", "--method", "tsb"), told)
    assert (dry.returncode, dry.stderr) == (0, "")
    said = r"^1 model looked at; until [\d:]+: \d+ stagings?, .* over networks, 0 replicas kept, 1 model left out"
    assert re.search(said, dry.stdout)
    assert re.search(r"\b[abc] +(dram|ssd) +often +\d+ +.*B +remote ", dry.stdout)
    assert re.search(r"a +[\d.]+ \w+ of 450\.0 MB +[\d.]+ \w+ of 1\.8 GB", dry.stdout)
    assert re.search(r"gone +it is not published", dry.stdout)
    script = json.loads(run_here(("prewarm", "--dry-run", "--method", "tsb", "--json"), told).stdout)
    assert script["carried"] is None
    assert [each["model"] for each in script["models"]] == ["often"]
    assert {each["model"] for each in script["plan"]["stagings"]} == {"often"}
    assert in_force(told) is None
    assert Nodes.latest.told_to_keep == set()


def test_a_plan_is_carried_out(told: Mapping[str, str], store: ModelStore) -> None:
    done = run_here(("prewarm", "--method", "tsb", "--json"), told)
    assert done.returncode == 0, done.stderr
    script = json.loads(done.stdout)
    stagings = script["plan"]["stagings"]
    assert re.fullmatch(
        rf"{len(stagings)} of {len(stagings)} stagings are there, [\d,]+ bytes were fetched for them\n", done.stderr
    )
    assert [each["failed"] for each in script["carried"]] == [None] * len(stagings)
    digests = {unit.name: unit.digest for unit in store.open("often").units}
    for each in stagings:
        node = Nodes.latest.view().node(each["node"])
        assert node is not None
        assert {digests[name] for name in each["units"]} <= node.units.keys()
    assert Nodes.latest.told_to_keep == {*script["plan"]["dram"], *script["plan"]["ssd"]}
    assert in_force(told)["made_s"] == script["plan"]["made_s"]


def test_a_plan_for_some_alone_says_nothing_of_the_others(told: Mapping[str, str]) -> None:
    done = run_here(("prewarm", "--models", "often", "--method", "tsb"), told)
    assert done.returncode == 0, done.stderr
    assert "often" in done.stdout
    assert (in_force(told), Nodes.latest.told_to_keep) == (None, set())
    unknown = run_here(("prewarm", "--models", "often,gone"), told)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr == "firsttoken: gone cannot be planned for: it is not published\n"


def test_what_could_not_be_brought_is_named_and_the_exit_status_says_so(
    told: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuses(*_told: object) -> None:
        raise Refused("there is no room")

    monkeypatch.setattr(Nodes, "bring", refuses)
    done = run_here(("prewarm", "--method", "tsb"), told)
    assert done.returncode == 1
    assert re.search(r"^often is not in (dram|ssd) of [abc]: there is no room$", done.stderr, re.MULTILINE)
