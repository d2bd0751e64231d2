"""All benchmarks, one after the other: `python -m benchmarks [--json]`."""

import subprocess
import sys
from pathlib import Path

from benchmarks.report import parser
from infra.lab.network import why_not

SCRIPTS = (
    "up.py",
    "cold_start.py",
    "pipeline_cold_start.py",
    "prediction.py",
    "honesty.py",
    "decision.py",
    "simulator.py",
    "prewarm.py",
    "moves.py",
    "move_flow.py",
    "prewarm_live.py",
    "generation.py",
    "grammars.py",
    "loading.py",
    "reproductions.py",
    "forecasts.py",
    "gpu.py",
)
IN_LAB = ("pipeline_cold_start.py", "prediction.py", "honesty.py", "prewarm_live.py")


def main() -> int:
    options = parser(__doc__.splitlines()[0]).parse_args()
    failed = 0
    for script in SCRIPTS:
        if script in IN_LAB and (problem := why_not()) is not None:
            print(f"{script} is left out: {problem}", file=sys.stderr)
            continue
        print(f"{script} ...", file=sys.stderr)
        command = [sys.executable, str(Path(__file__).with_name(script)), *(["--json"] if options.json else [])]
        failed |= subprocess.run(command, check=False).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
