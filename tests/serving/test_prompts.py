"""Text processes: what a model's template and tokenizer take is the model's own, and ends when it must."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers

from serving.errors import BadRequest, ContextTooLong, Overloaded, Unavailable
from serving.prompts import processes
from serving.prompts.processes import TextProcesses
from serving.structure.wanted import Form, Wanted
from serving.text import ModelText
from tests.serving.tokenizers import CHATML, byte_files, byte_tokenizer, files_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

HI = [{"role": "user", "content": "hi"}]
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
LOOPS_FOR_X = "{% if messages[0].content == 'x' %}" + LOOPS + "{% endif %}" + CHATML
GROWS = (
    "{% set all = namespace(text='a') %}{% for a in range(50) %}{% set all.text = all.text + all.text %}{% endfor %}"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def texts() -> AsyncIterator[TextProcesses]:
    """With time enough; at the end nothing of it is left."""
    before = set(psutil.Process().children(recursive=True))
    descriptors = psutil.Process().num_fds()
    texts = TextProcesses(timeout_s=60)
    await texts.start()
    assert texts._zygote is not None
    folder = texts._zygote.folder
    yield texts
    await texts.close()
    await asyncio.sleep(0)  # aborted transports close in the next round of the loop
    assert set(psutil.Process().children(recursive=True)) == before
    assert psutil.Process().num_fds() <= descriptors
    assert not folder.exists()


@pytest.fixture
def hurried(texts: TextProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates may take a second."""
    monkeypatch.setattr(texts, "timeout_s", 5.0)


async def opened(texts: TextProcesses, name: str, files: dict[str, bytes] | None = None) -> ModelText:
    return ModelText(await texts.open(name, name, files or byte_files(chat_template=CHATML), {}))


async def chat(text: ModelText, content: str = "hi", context_tokens: int = 512) -> tuple[int, ...]:
    return await text.encode_chat([{"role": "user", "content": content}], {}, context_tokens)


def of_a_process(text: ModelText) -> psutil.Process:
    assert text._process._process is not None
    return psutil.Process(text._process._process._pid)


async def test_prompts_become_tokens_and_tokens_text(texts: TextProcesses) -> None:
    text = await opened(texts, "good")
    tokens, other = await text.encode(["naïve 🙂", "x"], 512)
    decoder = (await text.answers()).decoder(())
    assert "".join(decoder.push(token) for token in tokens) == "naïve 🙂"
    assert [text.token(token).text for token in other] == ["x"]
    assert await chat(text) == (await text.encode(["<user>hi<answer>"], 512))[0]


async def test_a_template_gets_what_the_caller_hands_it(texts: TextProcesses) -> None:
    text = await opened(texts, "arguments", byte_files(chat_template="{{ tools[0].name }}{{ enabled }}"))
    tokens = await text.encode_chat(HI, {"tools": [{"name": "f"}], "enabled": True}, 512)
    assert tokens == (await text.encode(["fTrue"], 512))[0]


@pytest.mark.usefixtures("hurried")
async def test_a_template_that_loops_is_ended_and_takes_nobody_elses_time(texts: TextProcesses) -> None:
    """It once ran in the threads that all models share, for minutes, and their requests timed out."""
    good, bad = await opened(texts, "good"), await opened(texts, "loops", byte_files(chat_template=LOOPS))
    looping = [asyncio.ensure_future(chat(bad)) for _ in range(4)]
    for _ in range(3):
        assert len(await chat(good)) > 0
    assert not looping[1].done()
    first, second, *others = await asyncio.gather(*looping, return_exceptions=True)
    for error in (first, second):
        assert isinstance(error, BadRequest)
        assert (error.param, "chat template of loops took longer than 1 s" in str(error)) == ("model", True)
    for error in (*others, *await asyncio.gather(chat(bad), return_exceptions=True)):
        assert isinstance(error, Unavailable)  # it has burnt enough for a while
        assert error.retry_after_s is not None
    assert len(await chat(good)) > 0


@pytest.mark.usefixtures("hurried")
async def test_after_its_pause_a_model_is_tried_again(texts: TextProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PAUSE_S", 0.3)
    text = await opened(texts, "sometimes", byte_files(chat_template=LOOPS_FOR_X))
    for _ in range(processes.FAILURES):
        with pytest.raises(BadRequest, match="took longer"):
            await chat(text, "x")
    with pytest.raises(Unavailable):
        await chat(text)
    await asyncio.sleep(0.4)
    assert len(await chat(text)) > 0


@pytest.mark.usefixtures("hurried")
async def test_a_regular_expression_that_backtracks_without_end_is_ended(texts: TextProcesses) -> None:
    """A pre-tokenizer's expressions come with the model too."""
    tokenizer = byte_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("^(a|a|aa)+$"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    text = await opened(texts, "backtracks", files_of(tokenizer))
    with pytest.raises(BadRequest, match="backtracks's tokenizer"):
        await text.encode(["a" * 5000 + "b"], 9999)
    assert (await text.encode(["b"], 9999))[0] == (65,)


async def test_a_template_that_takes_all_memory_does_not_get_it(texts: TextProcesses) -> None:
    text = await opened(texts, "grows", byte_files(chat_template=GROWS))
    with pytest.raises(BadRequest, match=r"MemoryError|more memory"):
        await chat(text)


async def test_a_grammar_that_takes_much_memory_is_not_made(texts: TextProcesses) -> None:
    """A stage keeps sixteen of them: of some 100 MB each they took a node's memory, which nobody had reserved."""
    text = await opened(texts, "heavy")
    await grammar(text, 7)
    with pytest.raises(BadRequest, match="more memory") as refused:
        await grammar(text, 300_007)
    assert refused.value.param == "guided_json"
    await grammar(text, 11)


@pytest.mark.parametrize("template", ["{{ '\\ud800' }}", "{{ 1 / 0 }}", "{{ messages[9].content.x }}", "{% for %}"])
async def test_a_template_that_fails_is_a_bad_request(texts: TextProcesses, template: str) -> None:
    """What is neither a refusal of its own nor an error of the template language once was a 500."""
    text = await opened(texts, "fails", byte_files(chat_template=template))
    with pytest.raises(BadRequest) as refused:
        await chat(text)
    assert refused.value.param == "messages"


async def test_a_long_render_is_refused_by_its_tokens(texts: TextProcesses) -> None:
    text = await opened(texts, "long", byte_files(chat_template="{{ 'a' * 20000000 }}"))
    with pytest.raises(ContextTooLong) as refused:
        await chat(text)
    assert (refused.value.param, refused.value.code) == ("messages", "context_length_exceeded")


async def test_a_process_that_died_is_replaced_without_anybody_noticing(texts: TextProcesses) -> None:
    text = await opened(texts, "dies")
    process = of_a_process(text)
    process.kill()
    await asyncio.to_thread(process.wait, 10)
    await asyncio.sleep(0.05)
    assert len(await chat(text)) > 0


async def test_a_zygote_that_died_is_replaced(texts: TextProcesses) -> None:
    """Its processes die with it, and are started again from the next one with the files that are kept."""
    text = await opened(texts, "orphan")
    assert texts._zygote is not None
    assert texts._zygote._process is not None
    texts._zygote._process.kill()
    await asyncio.to_thread(of_a_process(text).wait, 10)
    await asyncio.sleep(0.05)
    with pytest.raises(Unavailable):
        await chat(text)
    assert len(await chat(text)) > 0


@pytest.mark.usefixtures("hurried")
async def test_who_leaves_while_he_waits_is_skipped(texts: TextProcesses) -> None:
    text = await opened(texts, "sometimes", byte_files(chat_template=LOOPS_FOR_X))
    first, second = asyncio.ensure_future(chat(text, "x")), asyncio.ensure_future(chat(text, "x"))
    await asyncio.sleep(0.1)
    for asked in (first, second):
        asked.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert len(await chat(text)) > 0  # one was worked on and ended; two would have been a reason to pause


def grammar(text: ModelText, multiple: int) -> Awaitable[object]:
    return text.constrain(Wanted(Form("json", {"type": "integer", "multipleOf": multiple}, True, "guided_json")), None)


async def test_a_prompt_waits_for_one_grammar_and_not_for_all(
    texts: TextProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may take two seconds: who sent some kept everybody else's prompts waiting for all of them."""
    text, over = await opened(texts, "asked"), list[str]()

    async def noted(name: str, work: Awaitable[object]) -> None:
        await work
        over.append(name)

    grammars = [noted("grammar", grammar(text, multiple)) for multiple in (3, 5, 7)]
    await asyncio.gather(*grammars, noted("prompt", chat(text)))
    assert over == ["grammar", "prompt", "grammar", "grammar"]
    monkeypatch.setattr(processes, "MAX_WAITING_GRAMMARS", 2)
    found = await asyncio.gather(*(grammar(text, multiple) for multiple in (13, 17, 19)), return_exceptions=True)
    assert [isinstance(each, Overloaded) for each in found] == [False, False, True]


async def test_too_many_who_wait_are_refused(texts: TextProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MAX_WAITING", 3)
    monkeypatch.setattr(processes, "MAX_WAITING_LETTERS", 100)
    text = await opened(texts, "busy")
    asked = [asyncio.ensure_future(chat(text)) for _ in range(4)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(each, Overloaded) for each in found] == [False, False, False, True]
    long = [asyncio.ensure_future(chat(text, "x" * 60)) for _ in range(2)]
    found = await asyncio.gather(*long, return_exceptions=True)
    assert [isinstance(each, Overloaded) for each in found] == [False, True]


async def test_only_so_many_processes_live_and_the_longest_idle_goes(
    texts: TextProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "ALIVE", 2)
    one, two = await opened(texts, "one"), await opened(texts, "two")
    assert len(await chat(one)) > 0
    await one.answers()  # what a prompt has it read counts as a use too
    three = await opened(texts, "three")
    assert [text.at_hand for text in (one, two, three)] == [True, False, True]
    assert len(await chat(two)) > 0
    assert [text.at_hand for text in (one, two, three)] == [False, True, True]


async def test_an_idle_process_ends(texts: TextProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "IDLE_S", 0.2)
    text = await opened(texts, "idle")
    await asyncio.to_thread(of_a_process(text).wait, 10)
    assert not text.at_hand
    assert len(await chat(text)) > 0


def _replaces_an_expression(tokenizer: Tokenizer) -> None:
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(Regex("(a+)+$"), "")])


def _has_too_many_parts(tokenizer: Tokenizer) -> None:
    tokenizer.decoder = decoders.Sequence([decoders.Replace("a", "aa")] * 200)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_replaces_an_expression, "regular expression"),
        (_has_too_many_parts, "letters"),
    ],
)
async def test_a_tokenizer_whose_answers_could_be_slow_to_decode_is_refused_when_the_model_is_opened(
    texts: TextProcesses, spoil: Callable[[Tokenizer], None], why: str
) -> None:
    """Answers are decoded in the front end, for all models."""
    tokenizer = byte_tokenizer()
    spoil(tokenizer)
    with pytest.raises(BadRequest, match=why) as refused:
        await opened(texts, "spoilt", files_of(tokenizer))
    assert refused.value.param == "model"


async def test_a_token_that_is_a_book_is_no_answer(texts: TextProcesses) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["x" * 5000])
    text = await opened(texts, "book", files_of(tokenizer))
    with pytest.raises(BadRequest, match="a token of more than 4096 letters"):
        await text.answers()


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100000, b'{"model": {"type": "BPE"}}'])
async def test_a_damaged_tokenizer_is_refused(texts: TextProcesses, data: bytes) -> None:
    with pytest.raises(BadRequest, match="tokenizer"):
        await opened(texts, "damaged", {**byte_files(), "tokenizer.json": data})


async def test_files_go_nowhere_else(texts: TextProcesses, tmp_path: Path) -> None:
    await opened(texts, "outside", {**byte_files(), str(tmp_path / "x"): b"x", "../y": b"y"})
    assert texts._zygote is not None
    assert not (tmp_path / "x").exists()
    assert not (texts._zygote.folder / "y").exists()


_FRONT_END = """
import asyncio
from serving.prompts.processes import TextProcesses
from serving.text import ModelText
from tests.serving.test_prompts import LOOPS, byte_files, chat, of_a_process, opened

async def main():
    texts = TextProcesses(600.0)
    await texts.start()
    bad = await opened(texts, "loops", byte_files(chat_template=LOOPS))
    asking = asyncio.ensure_future(chat(bad))
    await asyncio.sleep(0.2)
    print(texts._zygote._process.pid, of_a_process(bad).pid, texts._zygote.folder, flush=True)
    await asking

asyncio.run(main())
"""


async def test_nothing_outlives_a_front_end_that_is_killed() -> None:
    """Not even a process that is in the middle of a loop."""
    front_end = await asyncio.create_subprocess_exec(sys.executable, "-c", _FRONT_END, stdout=asyncio.subprocess.PIPE)
    assert front_end.stdout is not None
    zygote, process, folder = (await front_end.stdout.readline()).decode().split()
    below = [psutil.Process(int(zygote)), psutil.Process(int(process))]
    front_end.kill()
    await front_end.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, below, 10)
    assert not alive
    assert not await asyncio.to_thread(Path(folder).exists)
