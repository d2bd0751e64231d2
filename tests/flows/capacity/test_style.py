"""Whether what is written can be read, by light and dark."""

import pytest

from flows.capacity.style import DARK, LIGHT

ENOUGH = 4.5
"""Of text, by the Web Content Accessibility Guidelines 2.2, 1.4.3."""


def _colours(theme: str) -> dict[str, str]:
    pairs = (each.strip().split(":") for each in theme.split(";"))
    return {name.removeprefix("--"): value for name, value in pairs}


def _luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * each for each in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(theme: str) -> None:
    colours = _colours(theme)
    for behind in ("page", "card", "wash"):
        for text in ("ink", "quiet", "blue", "orange"):
            lighter, darker = sorted((_luminance(colours[text]), _luminance(colours[behind])), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= ENOUGH, f"{text} on {behind}"


def test_a_dark_page_has_all_colours_of_a_light_one() -> None:
    assert _colours(DARK).keys() == _colours(LIGHT).keys()
