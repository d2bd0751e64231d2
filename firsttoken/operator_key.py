"""The key that operators show the front end: a setting, or one that is made for this machine at first use."""

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
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(32))
        try:
            os.link(partial, path)  # whole, or not at all
        except FileExistsError:
            pass
        finally:
            partial.unlink()
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"the operator's key cannot be kept in {path}: {error}") from error
