"""`python -m gpt2`: the command line, as torchrun and machines without a scripts folder start it."""

from gpt2.cli.entry import main

if __name__ == "__main__":
    main()
