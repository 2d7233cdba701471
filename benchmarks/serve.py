"""The server under load, peers beside it on the same weights. Writes results/serve.json.

    python benchmarks/serve.py [--shape gpt2] [--seconds 20] [--llama PYTHON] [--transformers PYTHON]

An open-loop generator: requests come at random moments (Poisson) at a rate that does not wait for answers, at
0.5 to 8 times what the server can do; so a slow answer does not hide the next request's wait. Peers are run where the
Python that has them is named: one with `llama-cpp-python[server]`, one with `transformers[serving]`. Without --shape
the model inside the package is served, and the peers get it converted.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from inference import random_folder

import gpt2
from gpt2.bench import facts
from gpt2.config import PUBLISHED
from gpt2.files import write_json

RESULT = Path(__file__).parent / "results" / "serve.json"
PROMPT = "The house at the end of the street had been empty for years before anybody thought of asking why. " * 2
STREAMS, TOKENS, SEEDS = 16, 64, 8


@dataclasses.dataclass
class Reply:
    status: int = 0
    text: str = ""
    n_tokens: int = 0
    first_seconds: float | None = None
    seconds: float = 0.0
    complete: bool = False


async def ask(port: int, model: str, *, seed: int, tokens: int = TOKENS, sample: bool = True) -> Reply:
    """One streamed completion over a connection of its own."""
    reply, began = Reply(), time.perf_counter()
    fields = {"model": model, "prompt": PROMPT, "max_tokens": tokens, "stream": True, "seed": seed}
    body = json.dumps(fields | {"temperature": 1.0 if sample else 0.0}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer = None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        reply.status = int((await reader.readline()).split()[1])
        async for line in reader:
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                reply.complete = True
                break
            chunk = json.loads(line[6:])
            if "error" in chunk:
                break
            for choice in chunk["choices"]:
                if choice.get("text"):
                    reply.first_seconds = reply.first_seconds or time.perf_counter() - began
                    reply.text += choice["text"]
                    reply.n_tokens += 1
    except (OSError, ValueError, IndexError):
        pass
    finally:
        if writer is not None:
            writer.close()
    reply.seconds = time.perf_counter() - began
    return reply


async def closed(port: int, model: str, seconds: float, streams: int = STREAMS) -> dict[str, Any]:
    """So many streams, each asking again as soon as it has its answer."""
    end, replies = time.perf_counter() + seconds, list[Reply]()

    async def stream(number: int) -> None:
        while time.perf_counter() < end:
            replies.append(await ask(port, model, seed=number % SEEDS))

    began = time.perf_counter()
    await asyncio.gather(*map(stream, range(streams)))
    taken = time.perf_counter() - began
    tokens = sum(reply.n_tokens for reply in replies)
    return {
        "streams": streams,
        "tokens_per_second": tokens / taken,
        "requests_per_second": len(replies) / taken,
        "first_token_ms": quantiles([r.first_seconds for r in replies if r.first_seconds]),
        "incomplete": sum(not reply.complete for reply in replies),
    }


async def open_loop(port: int, model: str, rate: float, seconds: float, known: dict[int, str]) -> dict[str, Any]:
    """Requests at `rate` a second, whatever becomes of them."""
    draw, tasks = random.Random(1), list[asyncio.Task[Reply]]()
    began = time.perf_counter()
    at = 0.0
    while (at := at + draw.expovariate(rate)) < seconds:
        await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(port, model, seed=len(tasks) % SEEDS)))
    replies = await asyncio.gather(*tasks)
    taken = time.perf_counter() - began
    taken_in = [reply for reply in replies if reply.status == 200]
    refused = [reply.seconds for reply in replies if reply.status == 429]
    wrong = sum(r.complete and r.text != known[n % SEEDS] for n, r in enumerate(replies) if r.status == 200)
    return {
        "rate": rate,
        "requests": len(replies),
        "answered": sum(reply.complete for reply in taken_in),
        "refused": len(refused),
        "lost": sum(not reply.complete for reply in taken_in)
        + sum(reply.status not in (200, 429) for reply in replies),
        "wrong": wrong,
        "goodput_tokens_per_second": sum(reply.n_tokens for reply in taken_in if reply.complete) / taken,
        "first_token_ms": quantiles([r.first_seconds for r in taken_in if r.first_seconds]),
        "refusal_ms": quantiles(refused),
    }


async def leaving(port: int, model: str, times: int = 10) -> dict[str, float]:
    """Milliseconds from a client's leaving in the middle of a stream to its place being free."""
    found: list[float] = []
    for number in range(times):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        fields = {
            "model": model,
            "prompt": PROMPT,
            "max_tokens": 900,
            "stream": True,
            "seed": number,
            "ignore_eos": True,
        }
        body = json.dumps(fields).encode()
        writer.write(
            f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        writer.write(body)
        for _ in range(20):
            await reader.readline()
        writer.transport.abort()
        began = time.perf_counter()
        while running(await get(port, "/metrics")):
            await asyncio.sleep(0.002)
        found.append(time.perf_counter() - began)
    return quantiles(found)


async def get(port: int, path: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    data = await reader.read()
    writer.close()
    return data.decode()


def running(metrics: str) -> float:
    return float(re.search(r"gpt2_num_requests_running\{.*\} (\S+)", metrics)[1])  # type: ignore[index]


async def memory(port: int, model: str, pid: int, requests: int) -> list[tuple[int, float]]:
    """Megabytes of the process over so many short requests, a tenth of them left in the middle."""
    found = [(0, rss_mb(pid))]
    gate = asyncio.Semaphore(32)

    async def one(number: int) -> None:
        async with gate:
            if number % 10:
                await ask(port, model, seed=number, tokens=4)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ask(port, model, seed=number, tokens=64), 0.05)

    for done in range(0, requests, max(1, requests // 10)):
        await asyncio.gather(*(one(done + i) for i in range(max(1, requests // 10))))
        found.append((done + max(1, requests // 10), rss_mb(pid)))
    return found


def rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and worst, in milliseconds."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    at_99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return {"p50": 1e3 * statistics.median(ordered), "p99": 1e3 * at_99, "worst": 1e3 * ordered[-1]}


@contextlib.contextmanager
def server(command: Sequence[str], port: int, probe: str) -> Iterator[tuple[int, float]]:
    """A server as a process: its id, and the seconds from its start to its first answer."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
                connection.sendall(f"GET {probe} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                if connection.recv(100)[9:12] == b"200":
                    break
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
            time.sleep(0.01)
        yield process.pid, time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def measure_ours(folder: Path, weights: str, chosen: argparse.Namespace) -> dict[str, Any]:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "gpt2",
        "serve",
        "--model",
        f"m={folder}",
        "--weights",
        weights,
        "--port",
        str(port),
    ]
    found: dict[str, Any] = {"engine": f"gpt2 {weights}"}
    with server([*command, "--quiet"], port, "/health/ready") as (_, found["cold_start_seconds"]):
        pass
    with server([*command, "--quiet"], port, "/health/ready") as (pid, found["start_seconds"]):
        known = {seed: asyncio.run(ask(port, "m", seed=seed)).text for seed in range(SEEDS)}
        found["closed"] = asyncio.run(closed(port, "m", chosen.seconds))
        capacity = found["closed"]["requests_per_second"]
        found["open"] = []
        for factor in chosen.factors:
            found["open"].append(
                {"factor": factor} | asyncio.run(open_loop(port, "m", factor * capacity, chosen.seconds, known))
            )
            print(f"  {factor} x capacity: {found['open'][-1]}", flush=True)
        found["leaving_ms"] = asyncio.run(leaving(port, "m"))
        found["rss_mb"] = asyncio.run(memory(port, "m", pid, chosen.requests))
    return found


def measure_peer(name: str, command: Sequence[str], port: int, model: str, seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {"engine": name, "command": list(command)}
    with server(command, port, "/v1/models" if name != "transformers" else "/health") as (_, found["start_seconds"]):
        asyncio.run(ask(port, model, seed=0, tokens=4))  # some load the model at the first request
        found["closed"] = asyncio.run(closed(port, model, seconds))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=PUBLISHED, help="random weights in this shape, in place of gpt2-mini")
    parser.add_argument("--weights", nargs="+", default=["int8"])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--factors", type=float, nargs="*", default=[0.5, 1, 2, 4, 8])
    parser.add_argument("--requests", type=int, default=10_000, help="of the look at memory")
    parser.add_argument("--llama", help="Python that has llama-cpp-python[server]")
    parser.add_argument("--transformers", help="Python that has transformers[serving]")
    parser.add_argument("--note", help="what else ran meanwhile")
    chosen = parser.parse_args()

    results: list[dict[str, Any]] = []

    def keep(found: dict[str, Any]) -> None:
        """Written after each engine, so that one that hangs costs its own figures alone."""
        results.append(found)
        ratio = results[0]["closed"]["tokens_per_second"] / found["closed"]["tokens_per_second"]
        print(f"{found['engine']}: {found['closed']}; {results[0]['engine']} is {ratio:.1f} times that", flush=True)
        about = {"note": chosen.note, "model": chosen.shape or "gpt2-mini", **facts()}
        write_json(RESULT, about | {"results": results})

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        if chosen.shape:
            random_folder(folder, PUBLISHED[chosen.shape])
        else:
            gpt2.load("gpt2-mini").save(folder)
        for weights in chosen.weights:
            keep(measure_ours(folder, weights, chosen))
        if chosen.llama:
            file = Path(scratch) / "gguf"
            gpt2.load(folder).save(file, format="gguf", weights="q8_0")
            port, [found] = free_port(), list(file.glob("*.gguf"))
            command = [chosen.llama, "-m", "llama_cpp.server", "--model", str(found), "--n_ctx", "1024"]
            command += ["--port", str(port), "--model_alias", "m", "--n_threads", str(os.cpu_count())]
            keep(measure_peer("llama-cpp-python Q8_0", command, port, "m", chosen.seconds))
        if chosen.transformers:
            port = free_port()
            code = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
            command = [chosen.transformers, "-c", code, "serve", "--port", str(port)]
            command += ["--continuous-batching"]
            keep(measure_peer("transformers", command, port, str(folder), chosen.seconds))


if __name__ == "__main__":
    main()
