"""What README shows of the demo, out of a real run of it.

    python docs/samples/demo.py [--kept]

Runs `firsttoken demo` twice as a script would see it, 80 columns wide, for the second run is what one sees from then on;
keeps all that it printed in demo.txt, and puts the part of that which README shows between README's markers. With --kept
what is in demo.txt is put there again. A run in which the planner took fewer than all nodes is not kept: the machine
was busy, and what nodes had measured of themselves was wrong.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README, KEPT = ROOT / "README.md", Path(__file__).with_name("demo.txt")
BEGIN, END = "<!-- demo:begin -->\n", "<!-- demo:end -->"
COLUMNS = 80
_FIRST, _AFTER = "Side by side", "5. "
_NODES = 4


def run() -> str:
    """What the demo prints. CalledProcessError if it fails."""
    home = os.environ.get("FIRSTTOKEN_HOME", str(ROOT / ".firsttoken"))  # as make has it
    environment = os.environ | {"COLUMNS": str(COLUMNS), "NO_COLOR": "1", "FIRSTTOKEN_HOME": home}
    command = [sys.executable, "-m", "firsttoken", "demo"]
    done = subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def cut(printed: str) -> str:
    """The part that README shows: from both cold starts side by side to the warm one."""
    lines = printed.splitlines()
    begin, end = (next(at for at, line in enumerate(lines) if line.startswith(mark)) for mark in (_FIRST, _AFTER))
    return "\n".join(lines[begin:end]).strip("\n")


def shape(shown: str) -> list[str]:
    """The same for all runs whose lines say the same of other numbers, and of bars as long as they may be. What the front end
    says of pauses is left out: it says nothing where it met none."""
    masked = [" ".join(re.sub(r"[█-▏▐▕]", " ", line).split()) for line in shown.splitlines()]
    masked = [line for line in masked if not line.startswith("pauses ")]
    masked = [re.sub(r"\d+(\.\d+)?", "0", line) for line in masked]
    masked = [re.sub(r"(node-0|0)(, (node-)?0)*,?", "0", line) for line in masked]
    masked = [re.sub(r"^Move \w+:", "Move:", line) for line in masked]
    return [line for at, line in enumerate(masked) if at == 0 or line != masked[at - 1]]


def block(shown: str) -> str:
    """As it stands in README, between the markers."""
    return f"{BEGIN}```\n{shown}\n```\n{END}"


def main() -> None:
    if "--kept" not in sys.argv[1:]:
        run()
        printed = run()
        if f"{_NODES} nodes" not in cut(printed):
            sys.exit(f"demo.py: the planner did not take {_NODES} nodes: run it again while nothing else runs")
        KEPT.write_text(printed, encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(before + block(cut(KEPT.read_text(encoding="utf-8"))) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
