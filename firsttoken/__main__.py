"""The command `firsttoken`, and `python -m firsttoken`: Ctrl-C ends it quietly from the first moment on, its imports too."""

import sys


def main() -> None:
    """Run the command line and exit."""
    try:
        from firsttoken.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
