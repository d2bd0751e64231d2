"""What others record, read: each format, whatever it is called, and what is wrong with a file."""

import json

import pytest

from schedules.traces import parsing
from schedules.traces.errors import BadTrace, BadWish
from schedules.traces.trace import MOST_REQUESTS
from tests.schedules.traces.made import read, requests_of

AZURE_2021 = "app,func,end_timestamp,duration\nA,f,10.0,4.0\nA,g,7.0,2.5\nB,f,8.0,0\n"
AZURE_LLM = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.4799600,110,27\n"
)
MOONCAKE = (
    '{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}\n'
    '{"timestamp": 2500, "input_length": 7322, "output_length": 490, "hash_ids": []}\n'
)
PLAIN = [(0.5, "a", 10, 1), (2.0, "b", 20, 2)]


def test_a_call_of_azures_functions_of_2021_began_when_it_ended_less_what_it_took() -> None:
    found = read(AZURE_2021)
    assert found.format == "azure-functions-2021"
    assert [request[:2] for request in requests_of(found.trace)] == [(4.5, "g"), (6.0, "f"), (8.0, "f")]
    assert (found.has_models, found.has_lengths) == (True, False)


def test_a_call_that_had_begun_before_the_trace_is_left_out() -> None:
    found = read(AZURE_2021 + "A,f,3.0,4.0\n")
    assert len(found.trace) == 3
    assert found.notes == ("1 requests that had begun before the trace did are left out",)


def test_another_column_can_be_the_model() -> None:
    assert read(AZURE_2021, columns={"model": "app"}).trace.models == ("A", "B")


def test_calls_of_azures_functions_of_2019_come_in_their_minute() -> None:
    found = read("HashOwner,HashApp,HashFunction,Trigger,1,2,3\no,a,f,queue,0,2,0\no,a,g,timer,1,0,1\n")
    made = found.trace
    assert found.format == "azure-functions-2019"
    assert made.duration_s == 180.0
    assert sorted((int(s // 60), name) for s, name, _, _ in requests_of(made)) == [
        (0, "g"),
        (1, "f"),
        (1, "f"),
        (2, "g"),
    ]
    assert found.notes == ()


def test_azures_language_models_are_counted_from_the_first_request() -> None:
    found = read(AZURE_LLM)
    assert requests_of(found.trace) == [(0.0, "m", 4808, 10), (0.5, "m", 110, 27)]
    assert found.notes == ("counted from 2023-11-16T18:17:03.979960000",)
    assert not found.has_models


def test_mooncakes_times_are_milliseconds() -> None:
    assert requests_of(read(MOONCAKE).trace) == [(0.0, "m", 6758, 500), (2.5, "m", 7322, 490)]


@pytest.mark.parametrize(
    "text",
    [
        "time,model,prompt_tokens,answer_tokens\n0.5,a,10,1\n2.0,b,20,2\n",
        "Timestamp;Model;Input_Tokens;Output_Tokens\n0.5;a;10;1\n2.0;b;20;2\n",
        "answer\tprompt\tname\tts\n1\t10\ta\t0.5\n2\t20\tb\t2\n",
        "0.5,a,10,1\n2,b,20,2",
        "\n\n0.5, a, 10, 1\r\n\r\n2, b, 20.0, 2\r\n",
        'time,model,prompt,answer\n0.5,"a",10,1\r2.0,"b",20,2',
        '{"at_s": 0.5, "model": "a", "input_tokens": 10, "output_tokens": 1}\n'
        '{"at_s": "2", "output_tokens": "2", "model": "b", "input_tokens": 20, "more": {}}',
    ],
)
def test_plain_requests_are_read_however_they_are_written(text: str) -> None:
    assert requests_of(read(text).trace) == PLAIN


def test_two_or_three_columns_without_a_header_are_told_apart() -> None:
    assert requests_of(read("1,a\n", length="7:0/3:0").trace) == [(1.0, "a", 7, 3)]
    assert requests_of(read("1,10\n", length="7:0/3:0").trace) == [(1.0, "m", 10, 3)]
    assert requests_of(read("1,10,5\n").trace) == [(1.0, "m", 10, 5)]
    assert read("1,a,10,5,50\n").trace.max_tokens.tolist() == [50]


def test_columns_are_told_by_name_or_place() -> None:
    text = "who,when,was\nx,1000,7\ny,3000,8\n"
    told = {"time": "when", "model": "WHO", "prompt": "was"}
    assert requests_of(read(text, columns=told, unit="ms", length="1:0/3:0").trace) == [
        (1.0, "x", 7, 3),
        (3.0, "y", 8, 3),
    ]
    assert requests_of(read("x,9,5,1\n", columns={"time": "3", "prompt": "2", "answer": "4"}).trace) == [
        (5.0, "m", 9, 1)
    ]


def test_what_took_its_time_can_be_told_to_have_ended_by_dates_too() -> None:
    text = "end,took\n2024-01-01 00:00:10,4\n2024-01-01 00:00:09,0.5\n"
    assert read(text, columns={"time": "end", "duration": "took"}).trace.at_s.tolist() == [0.0, 2.5]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2024-02-28T23:59:59Z", "2024-02-29T00:00:00.5Z"),
        ("2024-02-29 01:00:00+01:00", "2024-02-28T22:00:01.5-0200"),
        ("1709164800", "1709164801.5"),
        ("2024-01-01 00:00", "2024-01-01 00:00:01,5"),
    ],
)
def test_dates_are_counted_from_the_first(first: str, second: str) -> None:
    text = f"time;model\n{first};a\n{second};a\n"
    assert read(text).trace.at_s.tolist() == [0.0, 1.5]


def test_requests_in_any_order_are_put_in_theirs_and_that_is_told() -> None:
    found = read("time,prompt\n3,30\n1,10\n2,20\n")
    assert found.trace.prompt_tokens.tolist() == [10, 20, 30]
    assert found.notes == ("it was not in the order of arrival, and is now",)
    assert read("time\n1\n1\n2\n").notes == ()


def test_lengths_of_nought_count_as_one() -> None:
    found = read("time,prompt,answer\n1,0,0\n2,5,5\n")
    assert found.trace.prompt_tokens.tolist() == [1, 5]
    assert found.notes == ("2 lengths of 0 tokens count as 1",)


def test_clients_ask_for_what_was_recorded_else_for_as_much_as_they_got_at_least() -> None:
    assert read("time,prompt,answer\n1,5,5\n2,5,5000\n", max_tokens=100).trace.max_tokens.tolist() == [100, 5000]
    assert read("time,answer,max_tokens\n1,5,7\n2,9,7\n").trace.max_tokens.tolist() == [7, 9]


def test_what_was_not_recorded_is_drawn_by_the_seed() -> None:
    text = "".join(f"{i}\n" for i in range(100))
    assert read(text, seed=1).trace == read(text, seed=1).trace != read(text, seed=2).trace
    assert read(text, max_tokens=50).trace.answer_tokens.max() == 50
    assert read(AZURE_LLM).trace.provenance.seed is None


def test_where_a_trace_is_from_is_kept() -> None:
    assert read("time\n2\n1\n").trace.provenance.steps == (
        "read as csv", "it was not in the order of arrival, and is now", "lengths drawn",
    )  # fmt: skip


GOOD = "time,model,prompt,answer\n1,a,10,5\n"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("2,a,10", "it has 3 columns, the first line 4"),
        ("2,a,10,5,6", "it has 5 columns, the first line 4"),
        ("-2,a,10,5", "'-2' is no time: those are from 0 on"),
        ("nan,a,10,5", "'nan' is no time"),
        ("inf,a,10,5", "'inf' is no time"),
        ("soon,a,10,5", "'soon' is no time"),
        ("time,model,prompt,answer", "'time' is no time"),
        ("2024-01-01,a,10,5", "a date where the times before it are numbers"),
        ("2024-13-01,a,10,5", "is no time"),
        ("2,,10,5", "cannot be a model's name"),
        (f"2,{'a' * 201},10,5", "cannot be a model's name"),
        ("2,a,-10,5", "-10 tokens, in 'prompt', are not from 0 to"),
        ("2,a,nan,5", "'nan' is no number of tokens, in 'prompt'"),
        ("2,a,1.5,5", "'1.5' is no number of tokens"),
        ("2,a,10,", "'' is no number of tokens, in 'answer'"),
        ("2,a,10,1e300", "tokens, in 'answer', are not from 0 to"),
        ("2,a,10,inf", "is no number of tokens"),
        ('{"timestamp": 1}', "it has 1 columns"),
        (f"2,{'a' * 200_000},10,5", "field larger than field limit"),
    ],
)
def test_a_line_that_cannot_be_read_is_told_or_passed_over(line: str, problem: str) -> None:
    text = f"{GOOD}{line}\n3,a,30,5\n"
    with pytest.raises(BadTrace, match=r"^line 3: ") as refused:
        read(text)
    assert problem in str(refused.value)
    found = read(text, skip_bad=True)
    assert found.trace.prompt_tokens.tolist() == [10, 30]
    assert (found.skipped, found.first_problem) == (1, str(refused.value))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "is not JSON"),
        ("2,a,10", "is not JSON"),
        ("[1, 2]", "no JSON object"),
        ('{"timestamp": 1, "input_length": 2}', "it has no 'output_length'"),
        ('{"timestamp": null, "input_length": 2, "output_length": 1}', "its 'timestamp' is neither a number nor text"),
        ('{"timestamp": 1, "input_length": true, "output_length": 1}', "its 'input_length' is neither"),
        ('{"timestamp": 1, "input_length": [2], "output_length": 1}', "its 'input_length' is neither"),
        ("[" * 100_000, "is not JSON"),
        ("1" * 5000, "is not JSON"),
    ],
)
def test_an_object_that_cannot_be_read_is_told_or_passed_over(line: str, problem: str) -> None:
    text = f"{MOONCAKE}{line}\n"
    with pytest.raises(BadTrace, match=r"^line 3: ") as refused:
        read(text)
    assert problem in str(refused.value)
    assert len(read(text, skip_bad=True).trace) == 2


def test_a_row_of_counts_that_cannot_be_read_is_told_or_passed_over() -> None:
    text = "HashFunction,1,2\nf,1,1\ng,x,1\n"
    with pytest.raises(BadTrace, match="line 3: 'x' is no number"):
        read(text)
    assert len(read(text, skip_bad=True).trace) == 2
    with pytest.raises(BadTrace, match="more than"):
        read(f"HashFunction,1,2\nf,{MOST_REQUESTS},1\n")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "there is nothing in it"),
        ("\n \n", "there is nothing in it"),
        ("time,model\n", "there is no request in it"),
        ("HashFunction,1,2\nf,0,0\n", "there is no request in it"),
        ("a,b\nx,y\n", "no column looks like a time: say which it is, of 'a', 'b'"),
        ("time,time\n1,2\n", "two columns have the same name"),
        ("1,2,3,4,5,6\n", "6 columns without a header"),
        ("1700000000000\n1700000003600\n", "its times begin at 1.7e\\+12 s, that is no date: say which unit"),
        ("1\n1e9\n", "it lasts 32 years: say which unit its times are in"),
        ("[]\n", "line 1: '\\[\\]' is no JSON object"),
        ("{}\n", "no column looks like a time"),
        ("{]\n", "line 1: '{\\]' is not JSON"),
        (f"{'x' * 200_000}\n", "line 1: field larger"),
    ],
)
def test_a_file_that_is_no_trace_is_told(text: str, problem: str) -> None:
    with pytest.raises(BadTrace, match=problem):
        read(text)


def test_a_file_with_no_good_line_says_what_is_wrong_with_the_first() -> None:
    with pytest.raises(
        BadTrace, match="no request in it; 2 lines could not be read, the first: line 2: 'x' is no time"
    ):
        read("time\nx\ny\n", skip_bad=True)


def test_columns_that_are_not_there_are_told_with_those_that_are() -> None:
    with pytest.raises(BadTrace, match="there is no column 'ts': there are 'time', 'model', 'prompt', 'answer'"):
        read(GOOD, columns={"time": "ts"})
    with pytest.raises(BadTrace, match="there is no column '9': there are '1', '2'"):
        read("1,2\n", columns={"time": "9"})
    with pytest.raises(BadTrace, match=r"there is no column 'x': there are 'c0', .* and 88 more"):
        read(f"{','.join(f'c{i}' for i in range(100))}\n", columns={"time": "x"})


def test_formats_and_units_that_there_are_not_are_told_with_those_that_there_are() -> None:
    with pytest.raises(BadWish, match=r"'parquet' is no format: those are azure-functions-2021, .*, csv, jsonl"):
        read(GOOD, format="parquet")
    with pytest.raises(BadWish, match="'days' is no unit of time: those are ns, us, ms, s, min, h"):
        read(GOOD, unit="days")


def test_a_format_that_is_named_is_not_guessed() -> None:
    assert read(MOONCAKE, format="jsonl").trace.at_s.tolist() == [0.0, 2500.0]
    with pytest.raises(BadTrace, match="of the format mooncake has a column 'timestamp': there are 'at'"):
        read('{"at": 1}\n', format="mooncake")
    with pytest.raises(BadTrace, match="of the format azure-llm-2023 has a column"):
        read("1,2,3\n", format="azure-llm-2023")


def test_numbers_after_dates_and_what_is_no_duration_are_told() -> None:
    with pytest.raises(BadTrace, match="line 3: '5' is a number where the times before it are dates"):
        read("time\n2024-01-01\n5\n")
    with pytest.raises(BadTrace, match="line 2: 'long' is no duration"):
        read("end_timestamp,func,duration\n5,f,long\n")


def test_a_first_line_without_a_header_above_it_is_told_as_any_other() -> None:
    with pytest.raises(BadTrace, match="line 1: '-1' is no time"):
        read("-1,a,10,5\n")


def test_blank_lines_are_nothing_but_are_counted() -> None:
    assert len(read(MOONCAKE.replace("\n", "\n\n")).trace) == 2
    for text in (f"\n \n{MOONCAKE}x\n", f"\n \n{GOOD}\nx,a,10,5\n", "\n\n\n\n{]"):
        with pytest.raises(BadTrace, match=r"^line (5|6): "):
            read(text)


def test_more_requests_than_a_trace_can_have_are_not_read_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "MOST_REQUESTS", 3)
    with pytest.raises(BadTrace, match="line 5: more than 3 requests"):
        read("time\n1\n2\n3\n4\nx\n")


def test_lines_are_read_as_they_come() -> None:
    """A generator that is drained line by line: nothing asks for its length, nor reads it twice."""
    found = read(json.dumps({"timestamp": i * 1000, "input_length": 5, "output_length": 5}) for i in range(2_000))
    assert found.trace.at_s.tolist() == list(range(2_000))
