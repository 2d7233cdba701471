"""`gpt2` and `python -m gpt2`: the command line, which Ctrl-C ends in a line however early it comes.

What is imported before the block below is what Python has already.
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


if __name__ == "__main__":
    main()
