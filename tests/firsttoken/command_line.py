"""The command line, called as its entry point calls it: in a process of its own, or, half a second faster, in this one."""

import io
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout

import pytest

from firsttoken.__main__ import main

Done = subprocess.CompletedProcess[str]


def clean_environment() -> dict[str, str]:
    """This process's own, without settings of ours."""
    return {key: value for key, value in os.environ.items() if not key.startswith("FIRSTTOKEN_")}


def run_process(arguments: tuple[str, ...], environment: Mapping[str, str], typed: str = "") -> Done:
    """Run a command to its end in a process."""
    command = [sys.executable, "-m", "firsttoken", *arguments]
    return subprocess.run(command, env=environment, input=typed, capture_output=True, text=True, timeout=50)


def run_here(arguments: tuple[str, ...], environment: Mapping[str, str], typed: str = "") -> Done:
    """The same in this process: for commands that end by themselves, and whose error is a sentence."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name in set(os.environ) - set(environment):
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["firsttoken", *arguments])
        patch.setattr(sys, "stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as ended:
            main()
    return subprocess.CompletedProcess(arguments, _status(ended.value.code), out.getvalue(), err.getvalue())


def _status(code: object) -> int:
    return code if isinstance(code, int) else int(code is not None)
