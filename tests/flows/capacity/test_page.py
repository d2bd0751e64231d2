"""A plan's page and picture: all of the plan is in them, they need nothing else, and texts stay texts."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree.ElementTree import fromstring

import pytest

from flows.capacity.page import page, picture
from flows.capacity.summary import summary
from flows.capacity.words import DASH, SPACE
from schedules.capacity.clusters import Cluster
from schedules.capacity.plan import Plan
from tests.flows.capacity.plans import GIB, GOAL, NAME, large, plan, trial

MADE_AT = "2026-11-27 10:00 UTC"
HOSTILE = (
    '<script>alert("1")</script>&amp;</style><img src="http://evil.example/x" onerror=alert(1)>]]>\x00\ud800\u202e'
)
VOID = {"meta", "br", "img", "link", "input", "hr"}
MOST_BYTES = 1_000_000
PLAIN = {ord(SPACE): " ", ord(DASH): "-"}


class Read(HTMLParser):
    """What a browser would see: elements with their attributes, and text outside of styles."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts).translate(PLAIN)

    def count(self, tag: str) -> int:
        return sum(each == tag for each, _ in self.tags)


def read(of: Plan) -> Read:
    return Read(page(of, MADE_AT))


def test_the_first_screen_has_the_answer_the_price_the_machines_and_what_binds() -> None:
    text = read(plan()).text
    assert "7 x l4 for $7.00 an hour: it attains 99.4 %." in text
    assert MADE_AT in text
    assert "$5,110  a month" in text  # 730 hours
    assert "7 x l4" in text
    assert "each with 2 accelerators, 64 GiB dram, 900 GB ssd" in text
    assert "1.25 GB/s" in text
    assert "the store gives 5 GB/s to all" in text
    assert "✓ attained : 99 % asked for" in text
    assert "The network cards: twice of them would attain 99.2 %." in text
    assert "The trace is of an hour" in text


def test_everything_of_the_plan_is_in_the_page() -> None:
    seen = plan()
    found = read(seen)
    for each in seen.tried:
        assert each.name in found.texts
    for what_if in seen.what_ifs:
        assert what_if.sentence in found.text
    for words in (
        "p95",
        "2.50 s",
        "4.00 s",
        "51 ms",
        "61 % / 97 %",
        "22 % / 88 %",
        "15 % / 71 %",
        "48 TB from the store",
    ):
        assert words in found.text
    assert "0.04 % of the requests got no whole answer" in found.text
    assert "The line is the limit of 2 s . 8.0 % of the requests waited" in found.text.replace("2 s.", "2 s .")
    assert "[cluster]\nnodes = 1\n\n[node]\ndram_bytes = 68719476736" in found.text
    assert "made up" in found.text


def test_nothing_is_asked_for_from_elsewhere_and_nothing_is_run() -> None:
    policies = [each["content"] for _, each in read(plan()).tags if each.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    for document in (page(plan(), MADE_AT), page(plan(sentence=HOSTILE), MADE_AT), picture(plan(sentence=HOSTILE))):
        found = Read(document) if document.startswith("<!doctype") else None
        names = set(re.findall(r"<[a-z]+[^>]*? (src|href|xlink:href|srcset|on[a-z]+|action|data)=", document))
        assert names == set()
        assert not re.search(r"url\(|@import|@font-face", document)
        assert found is None or {"script", "link", "img", "iframe", "object"}.isdisjoint(tag for tag, _ in found.tags)


@pytest.mark.parametrize("where", ["model", "sentence", "machine", "what-if", "setting", "input"])
def test_names_are_only_text_wherever_they_stand(where: str) -> None:
    seen = plan()
    assert seen.chosen is not None
    if where == "model":
        chosen = replace(seen.chosen, by_model={HOSTILE: 0.5})
        seen = replace(seen, chosen=chosen)
    elif where == "sentence":
        seen = replace(seen, sentence=HOSTILE, binding=HOSTILE, notes=(HOSTILE,))
    elif where == "machine":
        named = replace(seen.chosen, name=HOSTILE, cluster=Cluster({HOSTILE: 1}, None, {HOSTILE: 1}, {HOSTILE: 1}))
        seen = replace(seen, chosen=named, tried=(named,), curve=(named,))
    elif where == "what-if":
        seen = replace(seen, what_ifs=(replace(seen.what_ifs[0], name=HOSTILE, sentence=HOSTILE),))
    elif where == "setting":
        seen = replace(seen, settings={HOSTILE: {"node.name": HOSTILE}})
    else:
        seen = replace(seen, inputs={HOSTILE: [{HOSTILE: HOSTILE}], "models": [{"name": HOSTILE}]})
    found = read(seen)
    shown = HOSTILE.replace("\x00\ud800\u202e", "\ufffd\ufffd\ufffd")
    shown = shown[:1].upper() + shown[1:]
    assert shown[:60] in "".join(found.texts) or where == "setting"
    assert {"script", "img"}.isdisjoint(tag for tag, _ in found.tags)
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    page(seen, MADE_AT).encode()
    fromstring(picture(seen))
    assert "<script" not in summary(seen).replace("\\<script", "")


def test_a_plan_that_found_no_cluster_reads_well() -> None:
    seen = plan(
        {1: 0.2, 2: 0.61, 4: 0.61}, sentence="No cluster of up to 4 of these machines attains 99 %.", settings={}
    )
    found = read(seen)
    assert "No cluster of up to 4 of these machines attains 99 %." in found.text
    assert "Of all that was tried this came closest: 2 x l4." in found.text
    assert "✗ missed : 99 % asked for" in found.text
    assert "✓" not in found.text
    assert "chosen" not in found.text
    assert "Settings" not in found.text
    assert "What if" not in found.text
    assert "| closest | 2 x l4 |" in summary(seen).translate(PLAIN)


def test_a_plan_of_which_nothing_was_tried_reads_well() -> None:
    seen = plan({}, sentence="No machine can hold any of the models.", binding="", notes=())
    found = read(seen)
    assert "No machine can hold any of the models." in found.text
    assert "Everything that was tried" not in found.text
    assert found.count("svg") == 0
    fromstring(picture(seen))


@pytest.mark.parametrize("share", [0.0, 0.5, GOAL, 0.999999, 1.0])
def test_one_trial_is_enough_for_all_pictures(share: float) -> None:
    seen = plan({3: share})
    _within(read(seen))
    assert picture(seen)


def test_a_cluster_that_costs_nothing_and_serves_nobody_can_be_drawn() -> None:
    nothing = trial(
        0,
        0.0,
        {},
        cluster=Cluster({}),
        ttft_s={"p50": float("inf")},
        cold_ttft_s={},
        tpot_s={},
        price_per_mtok=float("inf"),
    )
    found = read(plan({}, tried=(nothing,), curve=(nothing,), inputs={}))
    _within(found)
    assert "no machines" in found.text
    assert "; - a million tokens" in found.text
    assert "There were none." in found.text
    assert "No limit was asked for" in found.text


def _within(found: Read) -> None:
    """Nothing is drawn beside its axis."""
    for tag, attributes in found.tags:
        if tag in ("line", "circle", "rect"):
            for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"):
                value = attributes.get(name) or "0"
                assert not value.endswith("%") or 0 <= float(value[:-1]) <= 100


def test_the_chosen_cluster_is_marked_once_and_the_curve_never_falls() -> None:
    found = read(plan())
    marked = [attributes for tag, attributes in found.tags if tag == "tr" and attributes.get("class") == "marked"]
    rings = [each for tag, each in found.tags if tag == "circle" and each.get("class") == "ring" and each["cx"] != "12"]
    assert len(marked) == len(rings) == 1
    steps = [each for tag, each in found.tags if tag == "line" and each.get("class") == "curve"]
    heights = [float(str(each["y1"])[:-1]) for each in steps]
    assert len(steps) == 2 * 9 - 1
    assert heights == sorted(heights, reverse=True)


def test_what_something_cheaper_is_as_good_as_is_no_best_for_its_price() -> None:
    found = read(plan({1: 0.9, 2: 0.95, 3: 0.93, 4: 0.95, 5: 0.995}))
    kinds = [each.get("class") for tag, each in found.tags if tag == "circle" and each["cx"] != "12"]
    assert (kinds.count("tried"), kinds.count("best"), kinds.count("chosen")) == (2, 2, 1)


def test_machines_of_several_types_are_told_apart() -> None:
    seen = plan()
    assert seen.chosen is not None
    mixed = Cluster({"a": 2, "b": 1}, None, {"a": GIB, "b": 2 * GIB}, {"a": 0, "b": 0})
    text = read(replace(seen, chosen=replace(seen.chosen, cluster=mixed))).text
    assert "2 x a + 1 x b" in text
    assert "a: 1 GiB dram, no ssd b: 2 GiB dram, no ssd" in text
    assert "the store sets no limit" in text


def test_of_many_models_the_worst_are_drawn_and_the_others_folded_away() -> None:
    document = page(large(models=1000, trials=60), MADE_AT)
    assert len(document.encode()) < MOST_BYTES
    found = Read(document)
    assert "All 1,000 models" in found.text
    assert sum("instruct-0999" in text for text in found.texts) > sum("instruct-0000" in text for text in found.texts)
    assert len(picture(large(models=1000, trials=60)).encode()) < 50_000


def test_what_is_too_long_for_a_table_is_cut_and_that_is_said() -> None:
    document = page(large(models=20_000, trials=2), MADE_AT)
    assert len(document.encode()) < MOST_BYTES
    assert f"19,000{SPACE}more rows not shown; the plan's JSON has all of them." in document


def test_a_picture_is_a_file_of_its_own_and_says_what_it_shows() -> None:
    root = fromstring(picture(plan()))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.findtext("{*}title") == plan().sentence
    assert "The target is 99" in str(root.findtext("{*}desc"))
    assert any(text.text == plan().sentence for text in root.findall(".//{*}text"))


def test_a_long_answer_is_broken_into_lines_in_the_picture() -> None:
    root = fromstring(picture(plan(sentence="many words " * 60)))
    heads = [text.text for text in root.findall(".//{*}text") if text.get("class") == "head"]
    assert len(heads) == 3
    assert str(heads[-1]).endswith("…")


def test_a_summary_has_the_answer_the_picture_and_what_would_be() -> None:
    text = summary(plan()).translate(PLAIN)
    assert text.startswith("**7 x l4 for $7.00 an hour: it attains 99.4 %.**")
    assert "](data:image/svg+xml;base64," in text
    assert f"| chosen | 7 x {NAME} | $5,110 | 99.4 % |" in text
    assert f"| one machine fewer | 6 x {NAME} | $4,380 | 98.9 % |" in text


def test_a_summary_keeps_to_its_cells() -> None:
    named = trial(1, 1.0, name="x", cluster=Cluster({"a|b\n[c](http://d)": 1}))
    (row,) = [line for line in summary(plan(chosen=named, what_ifs=())).splitlines() if line.startswith("| chosen")]
    assert row.translate(PLAIN).startswith("| chosen | 1 x a\\|b \\[c\\](http://d) |")
