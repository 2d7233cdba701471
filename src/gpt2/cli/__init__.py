"""The `gpt2` command: one verb per file, each parses its options, calls the rooms and prints.

`entry` is the entry point; `main` holds the table of verbs and turns errors into messages and exit codes; `options` has
the shared options; `output` is the only way to a terminal. Nothing else in the package prints.
"""
