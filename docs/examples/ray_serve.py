"""Replicas of `gpt2 serve` behind Ray Serve: every path of the server, on every machine of a Ray cluster.

    pip install 'ray[serve]'
    serve run docs.examples.ray_serve:app                       # or: python docs/examples/ray_serve.py
    curl -s localhost:8000/v1/completions -d '{"prompt": "Once upon a time"}'

Each replica runs the server's own application in its process, engine thread included. Replicas hold no state. Ray
restarts a replica whose `check_health` raises, and sends each request to one that has room.
"""

import os
from typing import Any

from ray import serve

import gpt2
from gpt2.serve import Limits, ServedModel, build_app, build_service

MODEL = os.environ.get("GPT2_MODEL", "gpt2-mini")
REPLICAS = int(os.environ.get("GPT2_REPLICAS", "2"))


def make_app() -> Any:
    """The server as an ASGI application; made in the replica, where its engine runs."""
    limits = Limits()
    model = ServedModel(gpt2.load(MODEL, threads=1), name=MODEL, limits=limits)
    service = build_service([model], limits=limits)
    make_app.service = service  # type: ignore[attr-defined]
    return build_app(service)


@serve.deployment(
    num_replicas=REPLICAS,
    max_ongoing_requests=64,  # of one replica; its own queue refuses what is too much with 429
    graceful_shutdown_timeout_s=30,
    ray_actor_options={"num_cpus": 1},
)
@serve.ingress(make_app)
class Gpt2:
    """One replica."""

    def check_health(self) -> None:
        """Raise if only a restart helps."""
        make_app.service.check_alive()  # type: ignore[attr-defined]


app = Gpt2.bind()

if __name__ == "__main__":
    serve.run(app, blocking=True)
