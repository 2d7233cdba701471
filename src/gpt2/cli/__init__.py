"""The `gpt2` command: one verb a file, each parsing its options, calling the rooms and printing.

`entry` begins; `main` holds the table of verbs and turns errors into messages and exit codes; `options` has what verbs
share; `output` is the only way to a terminal. Nothing else in the package prints.
"""
