"""A plan as people read it."""

from xml.etree import ElementTree

from flows.foreseeing.carry import Carried
from flows.prewarming.chosen import Chosen
from flows.prewarming.hits import Hits
from flows.prewarming.page import Shown, page_of, rows_of, sentence
from flows.prewarming.picture import ALL, lanes_of, picture
from schedules.facts import ModelKey
from schedules.foresight.plan import Kept, LeftOut, Plan, Staging
from tests.flows.prewarming.grounds import NOW_S, forecast, past
from tests.told import budgets_of

KEY = ModelKey("b|b", "digest")
STAGED = Staging("node-1", KEY, ("embed", "head"), "dram", 3_000_000, "remote", NOW_S + 60, 1.5, "b|b is called soon")
LOCAL = Staging("node-2", KEY, ("embed",), "dram", 1_000_000, "ssd", NOW_S + 60, 0.5, "the same")
PLAN = Plan(
    NOW_S, NOW_S + 900.0, (STAGED, LOCAL), {}, {}, (Kept(KEY, 2, 3.0, "it is called all the time"),), {},
    (LeftOut("a", "nobody calls it"),),
)  # fmt: skip
NAMES = ("a", "b|b", "c")


def shown(plan: Plan = PLAN, **changes: object) -> str:
    said = Chosen(budgets_of(), 900.0, ("Horizon: 15 min, by the settings [prewarm].",))
    hits = [Hits("c", 2, {"dram": 3, "remote": 1}, 3.0, 2.0)]
    values = {"hits": hits, "since_s": 0.0, "before": None, **changes}
    return page_of(Shown(past(*NAMES), forecast(*NAMES), plan=plan, chosen=said, **values))  # type: ignore[arg-type]


def test_a_plan_in_a_sentence() -> None:
    said = sentence(PLAN).replace("\u00a0", " ")
    assert said == (
        "2 stagings (3 MB over networks to 2 nodes for 1 model); 2 replicas to be up until 02:15:00 UTC: 5.00 s of cold "
        "starts are expected to be saved"
    )
    nothing = Plan(NOW_S, NOW_S + 900.0, (), {}, {}, (), {})
    assert sentence(nothing).startswith("Nothing is to be brought")


def test_the_page_says_what_is_kept_expected_hit_and_left_out_and_by_what_it_was_planned() -> None:
    page = shown().replace("\u00a0", " ")
    for said in (
        "| b\\|b | it is called all the time | 2 | 3.00 |",
        "| c | tsb | 95.0 % | 3 | 0 to 6 |",
        "| all | 2 | 75.0 % | 0 | 0 | 25.0 % | 1.50 s | 2.00 s |",
        "| a | nobody calls it |",
        "- Horizon: 15 min, by the settings \\[prewarm\\].",
    ):
        assert said in page
    assert "dry run" not in page


def test_what_else_came_of_the_run_is_said_and_that_nothing_was_done() -> None:
    page = shown(dry_run=True, notes=["the front end is *away*"], hits=[])
    assert "A dry run" in page
    assert "*the front end is \\*away\\**" in page
    assert "No cold starts since 00:00:00 UTC." in page


def test_many_that_are_left_out_are_counted_by_their_reasons() -> None:
    many = tuple(LeftOut(f"m{number}", "nobody calls it") for number in range(60))
    assert "| nobody calls it | 60 |" in shown(Plan(NOW_S, NOW_S + 1, (), {}, {}, (), {}, many))


def test_a_staging_is_a_line_with_its_reason_and_what_became_of_it() -> None:
    done, not_begun = rows_of(PLAN, {0: Carried(STAGED, 0, "the plan was over")})
    assert (done["model"], done["bytes"], done["before"], done["reason"]) == (
        "b|b", 3_000_000, "02:01:00 UTC", "b|b is called soon",
    )  # fmt: skip
    assert (done["outcome"], not_begun["outcome"]) == ("the plan was over", "planned")


def test_the_picture_has_a_lane_for_all_and_for_those_of_whom_the_most_is_expected() -> None:
    lanes = lanes_of(past(*NAMES), forecast(*NAMES), forecast(*NAMES), most=2)
    assert [lane.name for lane in lanes] == [ALL, "c", "b|b"]
    assert lanes[1].came.sum() == 2
    assert len(lanes[0].before) == len(lanes[0].expected) == 15
    drawn = ElementTree.fromstring(picture(lanes, NOW_S))
    kinds = [part.get("class") for part in drawn.iter()]
    assert (kinds.count("came"), kinds.count("before"), kinds.count("expected")) == (1 + 3 + 2 + 1, 1 + 3, 1 + 3)
    words = " ".join("".join(part.itertext()) for part in drawn.iter("{http://www.w3.org/2000/svg}text"))
    assert "02:00" in words


def test_nobody_who_is_neither_called_nor_expected_has_a_lane() -> None:
    assert [lane.name for lane in lanes_of(past("a", "b"), forecast("a", "b"), None)] == [ALL, "b"]
