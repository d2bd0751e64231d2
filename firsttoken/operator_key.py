"""The key that operators show the front end: a setting, or one that is made for this machine at first use."""

import contextlib
import os
import secrets
from pathlib import Path

from firsttoken.errors import SettingsError
from firsttoken.settings import Settings

FILE = "operator.key"


def operator_key(settings: Settings) -> str:
    """The key of `settings`, else that of the home, which only its owner may read. SettingsError if there can be none."""
    return settings.frontend.operator_key or _of_home(settings.home / FILE)


def _of_home(path: Path) -> str:
    """Whoever comes first makes it: components start together, and all must have the same."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _make(path)
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the operator's key cannot be kept in {path}: {error}") from error
    if not key:
        raise SettingsError(f"there is no operator's key in {path}: remove the file, and another one is made")
    return key


def _make(path: Path) -> None:
    """Whole, or not at all."""
    partial = path.with_suffix(f".{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(32))
        with contextlib.suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
