"""Where the command line is entered: what is imported before this is what Python has already.

So Ctrl-C finds a process that answers it in a line, however early it comes.
"""

import sys


def main() -> None:
    """Run the command line of this process and end it with the exit code."""
    try:
        from gpt2.cli.main import main as run

        run()
    except KeyboardInterrupt:  # while modules are imported, before the command line answers it itself
        if sys.stderr is not None:
            sys.stderr.write("interrupted\n")
        sys.exit(130)
