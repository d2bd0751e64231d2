"""What values of settings may be: each kind with its bounds, and how it is written as text.

Every number has both bounds and is finite: what no machine can mean is refused where it is read, not where it breaks.
"""

import ipaddress
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from schedules.foresight.cadence import check_cron

DAY_S, YEAR_S = 86_400.0, 31_536_000.0
MOST_BYTES = 1 << 50
SLOWEST_BYTES_PER_S = 100_000
MOST_NESTED = 16
MOST_PATH_BYTES = 450
"""Of a home: SQLite opens no file whose path has more than 512."""

_UNITS_BYTES = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}  # fmt: skip


_SAID = {
    "extra_forbidden": "there is no such setting",
    "int_parsing": "a whole number is needed", "int_type": "a whole number is needed",
    "int_from_float": "a whole number is needed", "float_parsing": "a number is needed", "float_type": "a number is needed",
    "bool_parsing": "true or false is needed", "bool_type": "true or false is needed", "string_type": "a text is needed",
    "model_type": "a table is needed", "dict_type": "a table is needed", "tuple_type": "a list is needed",
}  # fmt: skip


def said_of(problem: Mapping[str, Any]) -> str:
    """What is wrong with a value, for a person: one of pydantic's errors."""
    told: str = problem["msg"]
    return _SAID.get(problem["type"], told.removeprefix("Value error, ").replace("Input should be", "it should be"))


def parse_size(value: object) -> object:
    """Bytes from ``"8GB"`` (powers of ten) or ``"2GiB"`` (powers of two); anything but a string passes unchanged."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d{1,20}(?:\.\d{1,20})?)\s*([a-zA-Z]*)\s*", value)
    if match is None or match[2].lower() not in _UNITS_BYTES:
        raise ValueError("a size is a number of bytes, or a number with a unit such as 8GB or 2GiB")
    return int(Decimal(match[1]) * _UNITS_BYTES[match[2].lower()])


def _parse_json(value: object) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except RecursionError:
        raise ValueError(f"it is nested more than {MOST_NESTED} deep") from None


def _parse_names(value: object) -> object:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _is_number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("it is true or false, and should be a number")
    return value


def _at_least_a_second(value: float) -> float:
    if 0 < value < 1:
        raise ValueError("an interval is at least a second, or 0")
    return value


def _no_slower_than_a_modem(value: int) -> int:
    if 0 < value < SLOWEST_BYTES_PER_S:
        raise ValueError(f"a network takes in at least {SLOWEST_BYTES_PER_S:,} bytes a second; 0 sets no limit")
    return value


def _check_cron(value: str) -> str:
    if value:
        check_cron(value)
    return value


def _check_text(value: str) -> str:
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in value):
        raise ValueError("it has control characters, or bytes that are not UTF-8")
    return value


def _check_path(value: Path) -> Path:
    _check_text(str(value))
    if value == Path():
        raise ValueError("a folder is needed")
    return value


def _check_host(value: str) -> str:
    told = "a host is a name or an IP address"
    if len(value) > 253 or re.fullmatch(r"[A-Za-z0-9_:-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", value) is None:
        raise ValueError(told)
    if ":" in value or re.fullmatch(r"[0-9.]+", value):
        try:
            ipaddress.ip_address(value)
        except ValueError as error:
            raise ValueError(f"{told}: {error}") from None
    return value


def _check_ipv4(value: str) -> str:
    if ":" in value:
        raise ValueError("the parts of a cluster speak IPv4 to one another: a name or an address of that is needed")
    return value


def netloc(host: str, port: int) -> str:
    """Where what listens there is asked, as URLs have it: all addresses of a machine are asked at loopback."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 it is told apart, not bound
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_device(value: str) -> str:
    if re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", value) is None:
        raise ValueError("a device is auto, cpu, cuda or cuda:N")
    return value


def _check_origin(value: str) -> str:
    if re.fullmatch(r"\*|local|[a-z][a-z0-9+.-]*://[a-z0-9._:\[\]-]+", value) is None:
        raise ValueError(
            "an origin is written as browsers do: https://app.example or http://localhost:3000, or * for any, or local"
        )
    return value


def _check_key(value: str) -> str:
    if re.fullmatch(r"[!-~]{0,256}", value) is None:
        raise ValueError("a key has letters, digits and signs of ASCII, no spaces, at most 256")
    return value


def _check_history_url(value: str) -> str:
    if re.match(r"$|sqlite:///(?!:memory:).|postgresql://.", value) is None:
        raise ValueError("a history is at sqlite:///PATH or at postgresql://USER:PASSWORD@HOST/DATABASE")
    try:
        urlsplit(value).port  # noqa: B018 it is checked when it is asked for
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from None
    return value


def _check_auth(value: str) -> str:
    if re.fullmatch(r"|[^:\s]+:\S+", value) is None:
        raise ValueError("it is USER:PASSWORD, without blanks")
    return value


def _check_options(value: Any, deep: int = 0) -> Any:
    """Only what JSON can say: text, finite numbers, true and false, null, and lists and tables of these."""
    if deep > MOST_NESTED:
        raise ValueError(f"it is nested more than {MOST_NESTED} deep")
    match value:
        case str():
            _check_text(value)
        case float() if not math.isfinite(value):
            raise ValueError("a number in it is not finite")
        case bool() | int() | float() | None:
            pass
        case dict():
            for name, part in value.items():
                _check_text(name)
                _check_options(part, deep + 1)
        case list():
            for part in value:
                _check_options(part, deep + 1)
        case _:
            raise ValueError(f"a {type(value).__name__} in it is neither text nor a number, a list or a table")
    return value


_Int = Annotated[int, BeforeValidator(_is_number)]
_Float = Annotated[float, BeforeValidator(_is_number), Field(allow_inf_nan=False)]
Count = Annotated[_Int, Field(ge=0, le=1_000_000)]
"""How many; a setting that means something narrower says so."""
Priority = Annotated[_Int, Field(ge=-1_000_000, le=1_000_000)]
Tokens = Annotated[_Int, Field(ge=1, le=100_000_000)]
Size = Annotated[_Int, BeforeValidator(parse_size), Field(gt=0, le=MOST_BYTES)]
SizeOrZero = Annotated[_Int, BeforeValidator(parse_size), Field(ge=0, le=MOST_BYTES)]
BytesPerSecond = Annotated[SizeOrZero, AfterValidator(_no_slower_than_a_modem)]
Port = Annotated[_Int, Field(ge=0, le=65535)]
Seconds = Annotated[_Float, Field(gt=0, le=YEAR_S)]
SecondsOrZero = Annotated[_Float, Field(ge=0, le=YEAR_S)]
Horizon = Annotated[_Float, Field(ge=60, le=YEAR_S)]
"""Seconds of whole minutes, rounded up: arrivals are counted by the minute."""
Share = Annotated[_Float, Field(ge=0, le=1)]
Interval = Annotated[SecondsOrZero, AfterValidator(_at_least_a_second)]
Timeout = Annotated[_Float, Field(gt=0, le=DAY_S)]
"""Seconds that somebody waits for."""
Days = Annotated[_Float, Field(gt=0, le=36_500)]
Text = Annotated[str, AfterValidator(_check_text)]
Cron = Annotated[Text, AfterValidator(_check_cron)]
Folder = Annotated[Path, AfterValidator(_check_path)]
Host = Annotated[str, AfterValidator(_check_host)]
ClusterHost = Annotated[Host, AfterValidator(_check_ipv4)]
Device = Annotated[str, AfterValidator(_check_device)]
Names = Annotated[tuple[Text, ...], BeforeValidator(_parse_names)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_check_origin)], ...], BeforeValidator(_parse_names)]
Level = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]
Auth = Annotated[Text, AfterValidator(_check_auth)]
Key = Annotated[Text, AfterValidator(_check_key)]
HistoryUrl = Annotated[Text, AfterValidator(_check_history_url)]
ParseJson = BeforeValidator(_parse_json)
Options = Annotated[dict[str, Any], ParseJson, AfterValidator(_check_options)]
