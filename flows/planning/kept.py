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
from schedules.capacity.clusters import Cluster
from schedules.capacity.search import Job
from schedules.capacity.trial import Trial, Usage

FORGOTTEN_AFTER_S = 30 * 86_400.0
_ENDING = ".trials.jsonl"

_log = logging.getLogger(__name__)


class Kept:
    """The trials of one question, by the jobs that they are of. Without a folder they are kept in memory alone."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._trials: dict[str, Trial] = {}
        self._mend = False

    @classmethod
    def open(cls, folder: Path, digest: str) -> Self:
        """Those that were found out before; files that nobody has added to for a month go. OSError if it is no folder."""
        folder.mkdir(parents=True, exist_ok=True)
        _forget(folder)
        kept = cls(folder / f"{digest}-{brain_digest()}{_ENDING}")
        kept._read()
        return kept

    @property
    def path(self) -> Path | None:
        """The file, None if there is none."""
        return self._path

    def __len__(self) -> int:
        return len(self._trials)

    def trial(self, job: Job) -> Trial | None:
        """What became of the job, if that is known."""
        trial = self._trials.get(job.name)
        return trial if trial is not None and trial.cluster == job.cluster else None

    def add(self, job: Job, trial: Trial) -> None:
        """Keep it, from now on whatever happens. OSError if it cannot be written."""
        self._trials[job.name] = trial
        if self._path is None:
            return
        line = json.dumps({"job": job.name, "trial": _to_json(trial)}) + "\n"
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
                self._trials[str(told["job"])] = _of_json(told["trial"])
            except (ValueError, KeyError, TypeError, AttributeError):
                damaged += 1
        self._mend = bool(content) and not content.endswith(b"\n")
        if damaged:
            _log.warning("%s: %d lines that cannot be read are passed over", self._path, damaged)


def _to_json(trial: Trial) -> Any:
    return asdict(trial)


def _of_json(told: Any) -> Trial:
    return Trial(**{**told, "cluster": Cluster(**told["cluster"]), "usage": Usage(**told["usage"])})


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
