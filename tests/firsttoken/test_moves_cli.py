"""The commands that move replicas, each run as a person or a script does, against a front end over a cluster in memory."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.firsttoken.command_line import Done, clean_environment, run_here
from tests.serving.operated import KEY, Operated, operated
from tests.serving.routed import said, until

pytestmark = pytest.mark.timeout(60)
LONG = 500


class Shell:
    """Somebody at a terminal whose settings lead to the front end."""

    def __init__(self, there: Operated, home: Path, **settings: str) -> None:
        self.environment: Mapping[str, str] = {
            **clean_environment(),
            "FIRSTTOKEN_HOME": str(home),
            "FIRSTTOKEN_FRONTEND__PORT": str(there.port),
            "FIRSTTOKEN_FRONTEND__OPERATOR_KEY": KEY,
            "COLUMNS": "200",
            **settings,
        }

    async def run(self, *arguments: str) -> Done:
        return await asyncio.to_thread(run_here, arguments, self.environment)


async def answered(there: Operated) -> "asyncio.Task[list[int]]":
    """A client that is being answered by a pipeline on "a" and "b"."""
    answer = asyncio.ensure_future(there.answer(LONG))
    await until(lambda: any(len(each._done) > 5 for each in there.now.router._tickets.values()), 30.0)
    return answer


async def test_a_node_is_drained_and_all_that_was_done_is_shown(tmp_path: Path) -> None:
    async with operated() as there:
        shell, answer = Shell(there, tmp_path), await answered(there)
        done = await shell.run("drain", "a")
        assert done.returncode == 0, done.stderr
        assert re.search(r"Move \w+: node a is to be left", done.stdout)
        assert re.search(r"moved +m: a, b -> [bc]", done.stdout)
        assert re.search(r"requests +1 shifted, 0 stayed where they were", done.stdout)
        assert re.search(r"KV cache +1 copied \(.*\), 0 computed anew", done.stdout)
        assert re.search(r"pauses +\d+ ms in the middle, \d+ ms at most", done.stdout)
        assert "a runs nothing any more, and takes nothing until `firsttoken undrain a`." in done.stderr
        shown = await shell.run("status")
        assert re.search(r"a \(draining\)", shown.stdout)
        refused = await shell.run("drain", "a")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr == "firsttoken: node a is drained already (HTTP 409)\n"
        assert (await shell.run("undrain", "a")).stderr == "a takes replicas again.\n"
        assert "draining" not in (await shell.run("status")).stdout
        assert await answer == said("m", LONG)


async def test_moves_are_listed_for_a_person_and_for_a_script(tmp_path: Path) -> None:
    async with operated() as there:
        shell = Shell(there, tmp_path)
        assert (await shell.run("moves")).stderr == "nothing has moved yet\n"
        answer = await answered(there)
        moved = await shell.run("consolidate", "m", "--node", "c", "--json")
        move = json.loads(moved.stdout)
        assert (move["step"], move["requests"]["shifted"]) == ("done", 1)
        assert json.loads((await shell.run("moves", "--json", "--limit", "1")).stdout) == [move]
        assert re.search(rf"{move['move']} .* consolidate .* done .* m: a, b -> c", (await shell.run("moves")).stdout)
        again = json.loads((await shell.run("migrate", "m", "b", "--no-wait", "--json")).stdout)
        assert again["kind"] == "migrate"
        await until(lambda: not there.now.router.moves.under_way(), 20.0)
        assert await answer == said("m", LONG)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("drain", "z"), "no node called z is connected: there are a, b, c (HTTP 404)"),
        (("undrain", "z"), "no node called z is connected: there are a, b, c (HTTP 404)"),
        (("consolidate", "nobody"), "the model 'nobody' does not exist (HTTP 404)"),
        (("migrate", "m", "a"), "m does not run (HTTP 409)"),
        (("migrate", "m", "a", "--request", "r9"), "no request called r9 is being answered (HTTP 404)"),
    ],
)
async def test_what_cannot_be_done_is_one_sentence(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    async with operated() as there:
        done = await Shell(there, tmp_path).run(*arguments)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"firsttoken: {says}\n")


async def test_another_key_is_refused_and_says_where_the_right_one_is(tmp_path: Path) -> None:
    async with operated() as there:
        done = await Shell(there, tmp_path, FIRSTTOKEN_FRONTEND__OPERATOR_KEY="").run("drain", "a")
        assert done.returncode == 1
        assert "operator.key" in done.stderr
        assert "(HTTP 401)" in done.stderr
        assert (tmp_path / "operator.key").stat().st_mode & 0o777 == 0o600


async def test_a_move_that_is_given_up_or_not_over_in_time_is_an_error(tmp_path: Path) -> None:
    async with operated() as there:
        shell, answer = Shell(there, tmp_path), await answered(there)
        hold_back(there)
        late = await shell.run("consolidate", "m", "--timeout", "1")
        assert late.returncode == 1
        assert re.search(r"^\w+: preparing: m is made ready on a, about \d", late.stderr, re.MULTILINE)
        assert re.search(r"firsttoken: move \w+ is still preparing: .* after 1 s; it goes on, see", late.stderr)
        (move,) = there.now.router.moves.under_way()
        there.now.router.moves.give_up(move["move"], "an operator changed their mind")
        assert await answer == said("m", LONG)


def hold_back(there: Operated) -> None:
    """Heirs are never whole."""
    form = there.now.cluster.form

    async def never(*ordered: Any, behind: bool = False, **how: Any) -> Any:
        if behind:
            await asyncio.sleep(30.0)
        return await form(*ordered, behind=behind, **how)

    there.now.cluster.form = never  # type: ignore[method-assign]


async def test_ctrl_c_leaves_the_move_going_and_says_so(tmp_path: Path) -> None:
    async with operated() as there:
        shell, answer = Shell(there, tmp_path), await answered(there)
        hold_back(there)
        command = [sys.executable, "-m", "firsttoken", "consolidate", "m"]
        process = await asyncio.create_subprocess_exec(
            *command, env=dict(shell.environment), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        await until(lambda: there.now.router.moves.under_way(), 20.0)
        assert process.stderr is not None
        assert b"preparing" in await process.stderr.readline()
        os.kill(process.pid, signal.SIGINT)
        _, errors = await process.communicate()
        assert process.returncode == 130
        (move,) = there.now.router.moves.under_way()
        assert f"move {move['move']} goes on: see `firsttoken moves`" in errors.decode()
        assert b"Traceback" not in errors
        there.now.router.moves.give_up(move["move"], "an operator changed their mind")
        assert await answer == said("m", LONG)
