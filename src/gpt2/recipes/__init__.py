"""Complete training configurations, as TOML: what `gpt2 train NAME` reads."""
