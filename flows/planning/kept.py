"""What a sweep has found out, kept while it goes on, so that one that ends early is not begun anew.

A file of JSON lines, one a trial, named by all that a trial depends on: the question, and the code that plays it. Each line
is added in one piece, so that two sweeps of one question may go on at once; what is no whole line is passed over.
"""

import json
import logging
import os
import time
from dataclasses import asdict
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import schedules
from schedules.capacity.errors import BadDocument
from schedules.capacity.search import Job
from schedules.capacity.spoken import trial_from_json, trial_to_json
from schedules.capacity.trial import Trial

FORGOTTEN_AFTER_S = 30 * 86_400.0
_DIGITS = 24
_ENDING = ".trials.jsonl"

_log = logging.getLogger(__name__)


class Kept:
    """The trials of one question, by the jobs that they are of. Without a folder they are kept in memory alone."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._trials: dict[str, Trial] = {}
        self._mend = False

    @classmethod
    def open(cls, folder: Path, digest: str, *, resume: bool = True) -> Self:
        """Those that were found out before, or none of them; files that nobody has added to for a month go. OSError if it is
        no folder."""
        folder.mkdir(parents=True, exist_ok=True)
        _forget(folder)
        path = folder / f"{digest[:_DIGITS]}-{brain_digest()}{_ENDING}"
        kept = cls(path)
        if resume:
            kept._read()
        else:
            path.unlink(missing_ok=True)
        return kept

    @property
    def path(self) -> Path | None:
        """The file, None if there is none."""
        return self._path

    def __len__(self) -> int:
        return len(self._trials)

    def trial(self, job: Job) -> Trial | None:
        """What became of the job, if that is known."""
        return self._trials.get(_key(asdict(job)))

    def add(self, job: Job, trial: Trial) -> None:
        """Keep it, from now on whatever happens. OSError if it cannot be written."""
        told = asdict(job)
        self._trials[_key(told)] = trial
        if self._path is None:
            return
        line = json.dumps({"job": told, "trial": trial_to_json(trial)}) + "\n"
        whole = ("\n" if self._mend else "") + line
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._mend = os.write(file, whole.encode()) < len(whole.encode())
            os.fsync(file)
        finally:
            os.close(file)

    def _read(self) -> None:
        assert self._path is not None
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        damaged = 0
        for line in filter(None, content.split(b"\n")):
            try:
                told = json.loads(line)
                self._trials[_key(told["job"])] = trial_from_json(told["trial"])
            except (ValueError, KeyError, TypeError, BadDocument):
                damaged += 1
        self._mend = bool(content) and not content.endswith(b"\n")
        if damaged:
            _log.warning("%s: %d lines that cannot be read are passed over", self._path, damaged)


def _key(told: dict[str, Any]) -> str:
    """All of a job: of the same name there is one in a search, not in all searches of a question."""
    return json.dumps(told, sort_keys=True)


def _forget(folder: Path) -> None:
    for path in folder.glob(f"*{_ENDING}"):
        if time.time() - path.stat().st_mtime > FORGOTTEN_AFTER_S:
            path.unlink(missing_ok=True)


@cache
def brain_digest() -> str:
    """Of the code that decides and plays: what another version has found out is not mixed with what this one does."""
    (root,) = map(Path, schedules.__path__)
    digest = blake2b(digest_size=6)
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
