"""The entry point of the command line. Nothing is imported before it that Python has not loaded already.

So however early Ctrl-C comes, it is answered in one line.
"""

import sys


def main() -> None:
    """Run the command line of this process and end it with the exit code."""
    try:
        from gpt2.cli.main import main as run

        run()
    except KeyboardInterrupt:  # during imports, before the command line handles it
        if sys.stderr is not None:
            sys.stderr.write("interrupted\n")
        sys.exit(130)
