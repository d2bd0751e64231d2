"""Tokenizers as transformers opens them, from the files that travel with a model and from its configuration: it chooses a
tokenizer's class by both. transformers is imported only when a tokenizer is opened."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from storage_tiers.errors import SourceError

TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
TEMPLATES, TEMPLATE = "additional_chat_templates", ".jinja"
NEUTRAL_CLASS = "TokenizersBackend"
"""Takes tokenizer.json as it is; other classes build a tokenizer of their own from its vocabulary."""
_PROBES = (
    "Hello, world! The quick brown fox jumps over the lazy dog.",
    "HELLO iPhone McDonald ß ÉCOLE",
    "in 2023 and 1234567890, 3.14 1,000",
    " leading",
    "  two  spaces   three ",
    "line\nbreaks\r\n\n\n\tand\t\ttabs\n",
    "I'm you'll WON'T it's",
    "def f(x):\n    return x**2 + y[0]  # <p>&amp;</p>",
    "中文和日本語のテキスト 한국어 ไทย",
    "naïve cafe\u0301 \ufb01 \uff12 \u00a0 \u200b Привет مرحبا",
    "😀 👩\u200d👩\u200d👧 🇩🇪 \U0001d518 \u0001\u007f",
)

_DECODERS = frozenset(
    {"BPEDecoder", "ByteFallback", "ByteLevel", "CTC", "Fuse", "Metaspace", "Replace", "Strip", "WordPiece"}
)
_MAX_DECODER_LETTERS = 8192


def write_tokenizer(folder: Path, files: Mapping[str, bytes], config: Mapping[str, Any]) -> None:
    """Put into `folder` what transformers looks at there when it opens a tokenizer."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "config.json").write_text(json.dumps(dict(config)))


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer that transformers opens in `folder`. Raises whatever it does."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder.resolve(), trust_remote_code=False, local_files_only=True)


def open_tokenizer(files: Mapping[str, bytes], config: Mapping[str, Any]) -> Any:
    """The tokenizer of a model with this configuration and these files. Raises whatever transformers does."""
    with tempfile.TemporaryDirectory(prefix="firsttoken-tokenizer-") as folder:
        write_tokenizer(Path(folder), files, config)
        return read_tokenizer(Path(folder))


def judge_of(folder: Path, where: str) -> Any:
    """What a tokenizer made from `folder` is compared with: the one that transformers opens there. SourceError if none."""
    try:
        judge = read_tokenizer(folder)
    except Exception as error:  # whatever a damaged or unknown tokenizer makes transformers raise
        raise SourceError(
            f"cannot open the tokenizer in {where} ({_said(error)}); publish a folder that transformers' AutoTokenizer opens"
        ) from error
    if not hasattr(judge, "backend_tokenizer"):
        raise SourceError(f"the tokenizer in {where} is a {type(judge).__name__}, which has no tokenizer.json")
    return judge


def plain_tokenizer(files: Mapping[str, bytes]) -> Any:
    """The tokenizer that tokenizer.json describes, whatever is said beside it."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_buffer(files[TOKENIZER]))


def converted(judge: Any, templates: Mapping[str, str], where: str) -> dict[str, bytes]:
    """The files of a tokenizer that has no tokenizer.json, as transformers saves it with one. `templates` are those of a
    folder of their own, by name."""
    if templates:
        own = judge.chat_template
        judge.chat_template = (own if isinstance(own, dict) else {"default": own} if own else {}) | dict(templates)
    with tempfile.TemporaryDirectory(prefix="firsttoken-tokenizer-") as folder:
        try:
            judge.save_pretrained(folder)
        except Exception as error:  # what it holds may not be what its class expects
            raise SourceError(f"cannot convert the tokenizer in {where} to tokenizer.json ({_said(error)})") from error
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}
        named = sorted(Path(folder, TEMPLATES).glob(f"*{TEMPLATE}"))
        return with_templates(files, {path.name.removesuffix(TEMPLATE): path.read_text() for path in named})


def neutral(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The same files, told to be opened just as tokenizer.json says."""
    settings = json.loads(files[TOKENIZER_CONFIG]) | {"tokenizer_class": NEUTRAL_CLASS}
    return {**files, TOKENIZER_CONFIG: json.dumps(settings, ensure_ascii=False).encode()}


def settled(
    candidates: Iterable[Mapping[str, bytes]], config: Mapping[str, Any], judge: Any, where: str
) -> dict[str, bytes]:
    """The first of `candidates` that makes the same tokens as `judge`. SourceError, with what the first does otherwise, if
    none does, or if one of its chat templates is no template."""
    problems = []
    for files in candidates:
        try:
            found = open_tokenizer(files, config)
            problem = _difference(found, judge)
        except Exception as error:  # whatever a damaged or unknown tokenizer makes transformers raise
            problem = f"it cannot be opened ({_said(error)})"
        if problem is None:
            decoder = found.backend_tokenizer.decoder
            check_decoder(None if decoder is None else json.loads(decoder.__getstate__()))
            _check_templates(found.chat_template, where)
            return dict(files)
        problems.append(problem)
    raise SourceError(
        f"the tokenizer in {where} would not make the tokens that transformers makes there: {problems[0]}; publish the model "
        "as transformers' save_pretrained saves it"
    )


def check_decoder(decoder: Any) -> None:
    """SourceError if a decoder, as tokenizer.json has it, is of a kind that is not known or could take long over a token."""
    if len(json.dumps(decoder)) > _MAX_DECODER_LETTERS:
        raise SourceError(f"its tokenizer's decoder is described in more than {_MAX_DECODER_LETTERS} letters")
    if decoder is None:
        return
    for part in decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]:
        if part["type"] not in _DECODERS:
            raise SourceError(f"its tokenizer's decoder has a part of the kind {part['type']}, which is not taken")
        if part["type"] == "Replace" and "String" not in part["pattern"]:
            raise SourceError("its tokenizer's decoder replaces a regular expression: only plain strings are taken")


def _difference(found: Any, judge: Any) -> str | None:
    """What `found` does otherwise than `judge`, in words; None if that is nothing. Both may fail on a text."""
    for text in _probes(judge):
        for special in (True, False):
            expected, tokens = (_tokens(tokenizer, text, special) for tokenizer in (judge, found))
            if tokens != expected:
                return f"{text!r} becomes {_short(tokens)} instead of {_short(expected)}"
        if isinstance(expected, list) and found.decode(expected) != judge.decode(expected):
            return f"{_short(expected)} becomes {found.decode(expected)!r} instead of {judge.decode(expected)!r}"
    return None


def _tokens(tokenizer: Any, text: str, special: bool) -> list[int] | str:
    """The tokens of a text, or what keeps it from having any."""
    try:
        return list(tokenizer(text, add_special_tokens=special)["input_ids"])
    except Exception as error:  # a vocabulary without a token for what it does not know, say
        return f"an error ({_said(error)})"


def _check_templates(template: object, where: str) -> None:
    from jinja2 import TemplateError, TemplateSyntaxError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    for name, text in template.items() if isinstance(template, dict) else [("", template)]:
        called = f"the chat template {name!r} in {where}" if name else f"the chat template in {where}"
        try:
            if text is not None:
                _compile_jinja_template(text)
        except TemplateError as error:
            line = f" (line {error.lineno})" if isinstance(error, TemplateSyntaxError) else ""
            raise SourceError(f"{called} is no template: {error.message}{line}") from error
        except Exception as error:  # no text, or one that no parser can follow
            raise SourceError(f"{called} is no template ({_said(error)})") from error


def with_templates(files: Mapping[str, bytes], more: Mapping[str, str]) -> dict[str, bytes]:
    """The files with all chat templates in one place, where those of a folder of templates, by name, have been added.

    As transformers reads them: templates in files of their own take the place of those in the settings.
    """
    if not more:
        return dict(files)
    named = {"default": files[CHAT_TEMPLATE].decode()} if CHAT_TEMPLATE in files else {}
    settings = json.loads(files.get(TOKENIZER_CONFIG, b"{}"))
    settings["chat_template"] = [{"name": name, "template": text} for name, text in (named | dict(more)).items()]
    kept = {name: data for name, data in files.items() if name != CHAT_TEMPLATE}
    return {**kept, TOKENIZER_CONFIG: json.dumps(settings, ensure_ascii=False).encode()}


def _probes(judge: Any) -> Iterator[str]:
    yield from _PROBES
    added = sorted(judge.get_added_vocab())
    for start in range(0, len(added), 64):
        batch = added[start : start + 64]
        yield "".join(f"x{token}y {token} z\n{token}" for token in batch)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _short(tokens: list[int] | str) -> str:
    if isinstance(tokens, str):
        return tokens
    return f"[{', '.join(map(str, tokens[:24]))}{', ...' if len(tokens) > 24 else ''}]"
