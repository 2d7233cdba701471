"""Build a corpus on a Ray cluster: workers read shares of the inputs where there is room, one process does the rest.

    pip install ray            # and on every node, in a checkout: pip install -c constraints.txt '.[corpus]'
    python corpus_ray.py crawl.toml /shared/corpus 100

All nodes must share the output folder. A lost worker costs the inputs it was reading: Ray starts its share again, and
the share skips what it had finished.
"""

import sys
from pathlib import Path

import ray

from gpt2.data.corpus import build, read_config


def main() -> None:
    """Read in shares, then decide, deal and gather."""
    config_file, out, shares = sys.argv[1], sys.argv[2], int(sys.argv[3])
    config, sources = read_config(Path(config_file))
    ray.init()
    read = ray.remote(num_cpus=1, max_retries=3)(build)
    ray.get([read.remote(sources, out, config=config, part=(share, shares)) for share in range(1, shares + 1)])
    build(sources, out, config=config, workers=16)


if __name__ == "__main__":
    main()
