"""Credentials that a platform on this machine makes for itself, in files of its home that only the owner can read."""

import os
import secrets
from pathlib import Path

from firsttoken.settings import Settings
from serving.origins import is_loopback

PREFECT_AUTH_FILE = "prefect.auth"


def with_prefect_auth(settings: Settings) -> Settings:
    """`settings` with a user and password for Prefect where others reach it and none are set; they stay the same."""
    if settings.prefect.auth or is_loopback(settings.prefect.host):
        return settings
    path = settings.home / PREFECT_AUTH_FILE
    try:
        auth = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        auth = f"firsttoken:{secrets.token_urlsafe(24)}"
        write_private(path, auth.encode() + b"\n")
    return settings.model_copy(update={"prefect": settings.prefect.model_copy(update={"auth": auth})})


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    os.replace(partial, path)
