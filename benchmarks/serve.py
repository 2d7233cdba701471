"""The server under load, faults and bad input, peers beside it. Each subcommand adds its figures to results/serve.json.

    python benchmarks/serve.py                       all but soak, shortly, on the model inside the package
    python benchmarks/serve.py throughput --shape gpt2 --llama LLAMA_SERVER --transformers PYTHON
    python benchmarks/serve.py overload | leaving | memory | fuzz | restart | soak      [--shape gpt2] [--weights int8]

throughput   16 streams, each asking again when it has its answer; servers take turns, ours first and last
overload     an open-loop generator at --factors times what 16 streams get: what is answered, refused, how soon
leaving      a client leaves in the middle of a stream among 8 others: until its place is free
memory       of the process over many short requests, of which a tenth are left in the middle
fuzz         requests that should not be: no 5xx, and neighbours get the text they get alone
restart      kill -9 in the middle of a stream, and start again
soak         open-loop loads (--factors, drawn anew every 20 s), clients that leave and bad requests, for --minutes

--shape takes random weights in a published shape. LLAMA_SERVER is llama.cpp's `llama-server`, or a Python that has
xllamacpp; PYTHON has `transformers[serving]`. llama.cpp reads the prompts of all 16 before it writes anything, so
give --seconds several times what that takes. A request is a prompt of some 45 tokens and 32 to generate, drawn
from the 40 likeliest. In `throughput` no two begin alike, so that no server is spared the reading of a prompt. In
`overload` a refusal is timed by the client, from before it connects where it has no connection left from an earlier
request, and by the server, from the request's arrival. Connections are kept, as clients of the interface keep them. In
`fuzz`, status 0 is a client that closed its sending side, which is to leave, before it had an answer.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from serving import fuzz as fuzzing
from serving import processes
from serving.client import Reply, ask, body, closed, get, open_loop, quantiles

from gpt2.bench import facts
from gpt2.files import write_json

RESULT = Path(__file__).parent / "results" / "serve.json"
KNOWN = 8  # requests whose text is known, asked again and again


def throughput(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Servers take turns, there and back, each alone: one that idles may still keep a core busy."""
    ours = f"gpt2 {chosen.weights}"
    servers = {ours: lambda: processes.ours(folder, chosen.weights)}
    if chosen.llama:
        servers["llama.cpp q8_0"] = lambda: processes.llama(chosen.llama, folder)
    if chosen.transformers:
        servers["transformers"] = lambda: processes.transformers(chosen.transformers, folder)
        batching = ("--continuous-batching",)
        servers["transformers, batching"] = lambda: processes.transformers(chosen.transformers, folder, *batching)
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
    slow = list(servers)[1:]
    for turn, name in enumerate([ours, *slow, *([ours] if slow else [])]):
        with servers[name]() as server:

            def make(number: int, turn: int = turn, name: str = name, model: str = server.model) -> dict[str, Any]:
                return body(model, 10_000 * turn + number, plain=name.startswith("transformers"))

            first = asyncio.run(ask(server.port, body(server.model, 1 << 20, tokens=4, plain=True)))
            assert first.complete, first  # some load the model only now
            found = asyncio.run(closed(server.port, make, chosen.seconds, cut=True))
        turns[name].append(found)
        print(f"  {name}: {found['tokens_per_second']:.0f} tokens/s, {found}", flush=True)
    speed = {name: statistics.mean(each["tokens_per_second"] for each in rounds) for name, rounds in turns.items()}
    times = {name: speed[ours] / speed[name] if speed[name] else None for name in slow}
    return {"tokens_per_second": speed, "times_the_peer": times, "turns": turns}


def overload(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    with processes.ours(folder, chosen.weights, *chosen.flags) as server:

        def make(number: int) -> dict[str, Any]:
            return body("m", number % KNOWN)

        known = [asyncio.run(ask(server.port, make(number))).text for number in range(KNOWN)]
        at_capacity = asyncio.run(closed(server.port, make, chosen.seconds))
        found: dict[str, Any] = {"flags": chosen.flags, "capacity": at_capacity, "loads": []}
        for factor in chosen.factors:
            rate = factor * at_capacity["requests_per_second"]
            before = _refusals(asyncio.run(get(server.port, "/metrics")))
            load, replies = asyncio.run(open_loop(server.port, make, rate, chosen.seconds))
            after = _refusals(asyncio.run(get(server.port, "/metrics")))
            if load["refused"]:
                load["refused_within_20_ms_by_the_server"] = (after[0] - before[0]) / (after[1] - before[1])
            load["wrong"] = sum(reply.complete and reply.text != known[n % KNOWN] for n, reply in enumerate(replies))
            load["of_capacity"] = load["goodput_tokens_per_second"] / at_capacity["tokens_per_second"]
            found["loads"].append({"factor": factor} | load)
            print(f"  {factor} x: {load}", flush=True)
    return found


def leaving(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    async def measure(port: int) -> dict[str, Any]:
        others = [asyncio.create_task(ask(port, body("m", n, tokens=chosen.tokens))) for n in range(8)]
        found: list[float] = []
        for number in range(20):
            data = json.dumps(body("m", 100 + number, tokens=500)).encode()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
            writer.write(head.encode() + data)
            for _ in range(20):
                await reader.readline()
            there = _running(await get(port, "/metrics"))
            writer.transport.abort()
            began = time.monotonic()
            while _running(await get(port, "/metrics")) >= there:
                await asyncio.sleep(0.001)
            found.append(time.monotonic() - began)
        assert not any(other.done() for other in others), "the others ended first: give --tokens more"
        for other in others:
            other.cancel()
        return {"leaving_ms": quantiles(found), "step_ms": _step_ms(await get(port, "/metrics"))}

    with processes.ours(folder, chosen.weights) as server:
        found = asyncio.run(measure(server.port))
    found["allowed_ms"] = found["step_ms"] + 50
    return found


def memory(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    async def some(port: int, first: int, n: int) -> None:
        gate = asyncio.Semaphore(32)

        async def one(number: int) -> None:
            async with gate:
                if number % 10:
                    short = {"prompt": f"{number} times"} if number % 4 else {}  # of the others the beginning is kept
                    await ask(port, body("m", number, tokens=4) | short)
                else:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(ask(port, body("m", number, tokens=64)), 0.05)

        await asyncio.gather(*(one(first + i) for i in range(n)))

    with processes.ours(folder, chosen.weights) as server:
        held = [(0, server.rss_mb())]
        for part in range(10):
            asyncio.run(some(server.port, part * chosen.requests // 10, chosen.requests // 10))
            held.append(((part + 1) * chosen.requests // 10, server.rss_mb()))
            print(f"  {held[-1]}", flush=True)
    return {"rss_mb": held, "growth_after_the_first_tenth_mb": held[-1][1] - held[1][1]}


def fuzz(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    draw = random.Random(chosen.seed)
    statuses: Counter[int] = Counter()
    bad: list[str] = []

    async def one(port: int, data: bytes, gate: asyncio.Semaphore) -> None:
        async with gate:
            status = await _send(port, data, draw)
            statuses[status] += 1
            if status >= 500:
                bad.append(data.decode("latin-1"))

    async def all_of_them(port: int) -> int:
        gate, wrong = asyncio.Semaphore(16), 0
        known = [(await ask(port, body("m", number, tokens=16))).text for number in range(KNOWN)]
        for start in range(0, chosen.requests, 200):
            n = min(200, chosen.requests - start)
            fuzzed = asyncio.gather(*(one(port, fuzzing.request(draw), gate) for _ in range(n)))
            neighbours = await asyncio.gather(*(ask(port, body("m", number, tokens=16)) for number in range(KNOWN)))
            wrong += sum(reply.text != text for reply, text in zip(neighbours, known, strict=True))
            await fuzzed
        return wrong

    with processes.ours(folder, chosen.weights, "--max-receive-seconds", "3") as server:
        began = time.monotonic()
        wrong = asyncio.run(all_of_them(server.port))
        seconds, alive = time.monotonic() - began, "200" in asyncio.run(get(server.port, "/health/ready"))[:20]
    answers = {str(status): n for status, n in sorted(statuses.items())}
    found = {"requests": chosen.requests, "statuses": answers, "neighbours_wrong": wrong, "alive": alive}
    return found | {"seconds": seconds, "server_errors": bad[:5]}


async def _send(port: int, data: bytes, draw: random.Random) -> int:
    """The status that broken bytes are answered with; a tenth of those who send them stop sending then."""
    status = 0
    with contextlib.suppress(OSError, TimeoutError, ValueError, IndexError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            if writer.can_write_eof() and draw.random() < 0.1:
                writer.write_eof()
            status = int((await asyncio.wait_for(reader.readline(), 20)).split()[1])
            await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()
    return status


def restart(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    async def begin(port: int) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ask(port, body("m", 1, tokens=500)), 0.5)

    with tempfile.TemporaryDirectory() as cache:
        found: list[float] = []
        for _ in range(chosen.times + 1):
            with processes.ours(folder, chosen.weights, kill=True, XDG_CACHE_HOME=cache) as server:
                found.append(server.start_seconds)
                asyncio.run(begin(server.port))
    return {"first_start_seconds": found[0], "restart_seconds": found[1:], "median": statistics.median(found[1:])}


def soak(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Loads that change from one part to the next, among clients that leave and requests that should not be.

    Every answer is compared with the text it has alone. What has come so far is kept after each part.
    """
    draw, bad, left, lost = random.Random(chosen.seed), Counter[str](), 0, list[dict[str, Any]]()

    def make(number: int) -> dict[str, Any]:
        return body("m", number % KNOWN, tokens=16)

    async def annoy(port: int) -> None:
        nonlocal left
        while True:
            if draw.random() < 0.5:
                bad[str(await _send(port, fuzzing.request(draw), draw))] += 1
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ask(port, body("m", draw.randrange(10**6), tokens=300)), draw.random() / 2)
                left += 1
            await asyncio.sleep(draw.random() / 4)

    async def part(port: int, rate: float) -> tuple[dict[str, Any], list[Reply]]:
        annoying = asyncio.create_task(annoy(port))
        found = await open_loop(port, make, rate, 20)
        annoying.cancel()
        return found

    with processes.ours(folder, chosen.weights, "--max-receive-seconds", "3") as server:
        known = [asyncio.run(ask(server.port, make(number))).text for number in range(KNOWN)]
        capacity = asyncio.run(closed(server.port, make, 10))["requests_per_second"]
        end, held, total = time.monotonic() + 60 * chosen.minutes, [(0.0, server.rss_mb())], Counter[str]()
        began, found = time.monotonic(), dict[str, Any]()
        while time.monotonic() < end:
            load, replies = asyncio.run(part(server.port, capacity * draw.choice(chosen.factors)))
            for name in ("requests", "answered", "refused", "lost"):
                total[name] += load[name]
            since = time.monotonic() - began - load["seconds"]
            lost += [{"part_began": round(since, 1), **each} for each in load["of_the_lost"]]
            del lost[100:]
            total["wrong"] += sum(reply.complete and reply.text != known[n % KNOWN] for n, reply in enumerate(replies))
            held.append((time.monotonic() - began, server.rss_mb()))
            print(
                f"  {held[-1][0]:.0f} s, {held[-1][1]:.0f} MB, {dict(total)}, {left} left, bad {dict(bad)}", flush=True
            )
            found = {
                "factors": chosen.factors,
                "minutes": (time.monotonic() - began) / 60,
                **total,
                "of_the_lost": lost,
                "left": left,
                "bad_requests_by_status": dict(sorted(bad.items())),
                "rss_mb": held,
            }
            _keep(f"soak {chosen.shape or 'gpt2-mini'}", chosen, found)
    return found


def _running(metrics: str) -> float:
    return float(re.search(r"gpt2_num_requests_running\{.*\} (\S+)", metrics)[1])  # type: ignore[index]


def _refusals(metrics: str) -> tuple[float, float]:
    """How many requests were refused within 20 ms of their arrival, and how many at all."""
    found = [
        re.search(
            rf'gpt2_http_response_seconds_bucket{{le="{most}",path="/v1/completions",status="429"}} (\S+)', metrics
        )
        for most in ("0.02", r"\+Inf")
    ]
    within, all_of_them = (0.0 if each is None else float(each[1]) for each in found)
    return within, all_of_them


def _step_ms(metrics: str) -> float:
    """The mean time between two tokens of a sequence."""
    total, n = (
        float(re.search(rf"gpt2_inter_token_latency_seconds_{name}\{{.*\}} (\S+)", metrics)[1])  # type: ignore[index]
        for name in ("sum", "count")
    )
    return 1e3 * total / n


MEASURES = (throughput, overload, leaving, memory, fuzz, restart, soak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [measure.__name__ for measure in MEASURES]
    parser.add_argument("measure", nargs="*", metavar="MEASURE", help=f"of {', '.join(names)}; all but soak")
    parser.add_argument("--shape", help="random weights in this shape, in place of gpt2-mini")
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--seconds", type=float, default=8, help="of each turn and each load")
    parser.add_argument("--factors", type=float, nargs="*", default=[0.5, 1, 4])
    parser.add_argument("--flags", nargs="*", default=[], metavar="FLAG=VALUE", help="more flags of the server")
    parser.add_argument("--tokens", type=int, default=800, help="leaving: of each stream that stays")
    parser.add_argument("--requests", type=int, default=10_000, help="memory, fuzz: how many")
    parser.add_argument("--times", type=int, default=5, help="restart: how often")
    parser.add_argument("--minutes", type=float, default=60, help="soak: how long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--llama", help="llama.cpp's llama-server, or a Python that has xllamacpp")
    parser.add_argument("--transformers", help="Python that has transformers[serving]")
    parser.add_argument("--note", help="what else ran meanwhile")
    parser.add_argument("--out", type=Path, default=RESULT, help="the result, that of another machine for example")
    chosen = parser.parse_args()
    if unknown := set(chosen.measure) - set(names):
        parser.error(f"there is no measure {', '.join(sorted(unknown))}")
    with processes.model_folder(chosen.shape) as folder:
        for measure in MEASURES:
            if measure.__name__ in (chosen.measure or names[:-1]):
                found = measure(folder, chosen)
                print(f"{measure.__name__}: {json.dumps(found)[:2000]}", flush=True)
                _keep(f"{measure.__name__} {chosen.shape or 'gpt2-mini'}", chosen, found)


def _keep(name: str, chosen: argparse.Namespace, found: dict[str, Any]) -> None:
    """Added at once, so that a measure that hangs costs its own figures alone."""
    before = json.loads(chosen.out.read_text(encoding="utf-8")) if chosen.out.exists() else {}
    about = {"note": chosen.note, "weights": chosen.weights, **facts()}
    for program in filter(None, (chosen.llama, chosen.transformers)):  # not where it is installed
        about["command"] = about["command"].replace(program, Path(program).name)
    write_json(chosen.out, before | {name: about | {"found": found}})


if __name__ == "__main__":
    main()
