"""Sets of quality rules: numbers in TOML files, which a user can read, change and add to."""
