"""`gpt2 serve` as a process: signals, `kill -9`, keys from the environment, fuzzing, many requests, memory."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

pytestmark = pytest.mark.long

SECONDS = 120


class Process:
    """A server of its own process; its log is a file."""

    def __init__(self, log: Path, *arguments: str, port: int = 0, script: str = "", **environment: str) -> None:
        self._log = log.open("a+", encoding="utf-8")  # the server writes at its end, wherever it is read
        start = ["-c", script] if script else ["-m", "gpt2"]
        command = [sys.executable, *start, "serve", "--threads", "1", "--port", str(port), *arguments]
        self.process = subprocess.Popen(
            command, stderr=self._log, stdout=subprocess.DEVNULL, env={**os.environ, **environment}
        )
        self.url, self.port = "", 0
        self._clients: list[openai.OpenAI] = []

    def wait_until_it_listens(self) -> None:
        for _ in range(SECONDS * 20):
            found = re.search(r"listening on (http://[\d.]+:(\d+))", self.log())
            if found:
                self.url, self.port = found[1], int(found[2])
                return
            assert self.process.poll() is None, self.log()
            time.sleep(0.05)
        raise AssertionError(self.log())

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=SECONDS) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def client(self, api_key: str = "none") -> openai.OpenAI:
        """One that is closed with the process."""
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=api_key, timeout=SECONDS, max_retries=0)
        self._clients.append(client)
        return client

    def async_client(self) -> openai.AsyncOpenAI:
        """One that waits for a connection too for as long as it takes: by default it gives up after 5 seconds."""
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", timeout=SECONDS, max_retries=0)

    def rss_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

    def end(self, with_signal: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        code = self.process.wait(SECONDS)
        self._log.close()
        while self._clients:
            self._clients.pop().close()
        return code


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, **options: Any) -> Process:
            started = Process(tmp_path / f"log-{time.monotonic_ns()}", *arguments, **options)
            stack.callback(started.end, signal.SIGKILL)
            started.wait_until_it_listens()
            return started

        yield start


def test_sigterm_finishes_what_runs_and_exits_0(process: Any) -> None:
    server = process()
    parts = server.client().completions.create(
        model="gpt2-mini", prompt="Once", max_tokens=100, stream=True, seed=1, extra_body={"ignore_eos": True}
    )
    first = next(iter(parts)).choices[0].text
    server.process.send_signal(signal.SIGTERM)
    rest = "".join(part.choices[0].text for part in parts)
    assert server.process.wait(SECONDS) == 0
    again = process()
    whole = again.client().completions.create(
        model="gpt2-mini", prompt="Once", max_tokens=100, seed=1, extra_body={"ignore_eos": True}
    )
    assert first + rest == whole.choices[0].text  # and the same seed gives the same bytes after a restart
    assert again.end(signal.SIGINT) == 0


HANGS = """
import threading
from gpt2.__main__ import main
from gpt2.generation import Scheduler
Scheduler.step = lambda self, now: threading.Event().wait()
main()
"""


def test_the_third_signal_ends_a_process_whose_engine_hangs(process: Any) -> None:
    server = process("--max-stall-seconds", "0.1", script=HANGS)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        body = b'{"prompt": "Once"}'
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % len(body) + body)
        while server.get("/health/live")[0] == 200:
            time.sleep(0.05)
        for _ in range(3):
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)  # signals that come together are one
        assert server.process.wait(SECONDS) == 0


def test_kill_9_and_restart_on_the_same_port(process: Any) -> None:
    server = process()
    parts = server.client().completions.create(  # more than fits on its way to who does not read, so it is cut off
        model="gpt2-mini",
        prompt="Once",
        n=16,
        max_tokens=900,
        logprobs=20,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(parts))
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    with pytest.raises(Exception, match=r"(?i)incomplete|closed|reset|disconnect|protocol|connection"):
        list(parts)
    again = process(port=server.port)
    assert again.get("/health/ready")[0] == 200
    with pytest.raises(AssertionError, match="cannot listen on"):
        process(port=again.port)


def test_keys_from_the_environment_and_a_log_in_json(process: Any) -> None:
    server = process("--json", GPT2_API_KEYS="a-key-that-is-long-enough")
    assert server.get("/health/ready")[0] == 200
    assert server.get("/v1/models")[0] == 401
    client = server.client("a-key-that-is-long-enough")
    client.completions.create(model="gpt2-mini", prompt="my secret", max_tokens=2)
    server.process.terminate()
    server.process.wait(SECONDS)  # a line is written after the answer that it is about
    lines = [json.loads(line) for line in server.log().splitlines()]
    assert [line["status"] for line in lines if "status" in line] == [401, 200]
    assert "secret" not in server.log() and "long-enough" not in server.log()


def test_overload_is_refused_and_what_was_taken_is_answered(process: Any) -> None:
    server = process("--max-queue-requests", "20", "--sequences", "4", "--max-queue-seconds", "1000")
    whole = {"ignore_eos": True}  # a place is taken for longer than it takes to send a request

    async def one(client: openai.AsyncOpenAI, number: int) -> int | str:
        try:
            answer = await client.completions.create(
                model="gpt2-mini", prompt=f"number {number % 3}", max_tokens=100, seed=number % 3, extra_body=whole
            )
        except openai.RateLimitError as error:
            return error.status_code if int(error.response.headers["retry-after"]) >= 1 else 0
        return answer.choices[0].text

    async def many() -> list[int | str]:
        async with server.async_client() as client:
            return await asyncio.gather(*(one(client, number) for number in range(300)))

    answers = asyncio.run(many())
    texts: list[set[str]] = [set(), set(), set()]
    for number, answer in enumerate(answers):
        if answer != 429:
            assert isinstance(answer, str)
            texts[number % 3].add(answer)
    assert answers.count(429) > 0 and 300 - answers.count(429) >= 20
    assert [len(found) for found in texts] == [1, 1, 1]  # the same seed, the same text, under load
    assert server.get("/health/ready")[0] == 200


def test_memory_is_flat_and_nothing_is_left_over(process: Any) -> None:
    server = process()

    async def many(n: int) -> None:
        async with server.async_client() as client:
            gate = asyncio.Semaphore(32)

            async def one(number: int) -> None:
                async with gate:
                    fields: dict[str, Any] = {"model": "gpt2-mini", "prompt": f"n {number}", "max_tokens": 4}
                    if number % 3 == 0:
                        async for _ in await client.completions.create(stream=True, **fields):
                            if number % 9 == 0:
                                break  # leaves in the middle
                    else:
                        await client.completions.create(logprobs=2, echo=True, **fields)

            await asyncio.gather(*map(one, range(n)))

    asyncio.run(many(150))
    before = server.rss_mb()
    asyncio.run(many(300))
    assert server.rss_mb() < before * 1.1 + 8
    for _ in range(SECONDS * 20):  # the server has yet to see that the last have left
        text = server.get("/metrics")[1]
        if all(f'gpt2_num_requests_{what}{{model_name="gpt2-mini"}} 0.0' in text for what in ("running", "waiting")):
            break
        time.sleep(0.05)
    else:
        raise AssertionError(text)
    assert 'gpt2_request_failed_total{model_name="gpt2-mini"} 0.0' in text
    assert server.end() == 0


def test_thousands_of_slow_connections_harm_nobody(process: Any) -> None:
    server = process()

    async def drip() -> None:
        writers = []
        for number in range(500):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"[: 10 + number % 40])
            writers.append(writer)
        async with server.async_client() as client:
            answer = await client.completions.create(model="gpt2-mini", prompt="Once", max_tokens=5)
            assert answer.choices[0].text
        for writer in writers:
            writer.close()

    asyncio.run(drip())
    assert server.end() == 0


def test_the_harness_s_own_requests(process: Any) -> None:
    """The forms that lm-evaluation-harness's local-completions sends, and what it reads from the answers."""
    import gpt2

    server = process("--weights", "fp32")
    texts = [
        "The capital of France is Paris.",
        "2 + 2 = 4",
        "Once upon a time there was a cat",
        "\u00e9\u00e8 \U0001f600",
    ]
    with gpt2.load("gpt2-mini", weights="fp32") as model:
        prompts = [[50256, *model.tokenizer.encode(text)] for text in texts] * 10
        body: dict[str, Any] = {
            "model": "gpt2-mini",
            "prompt": prompts,
            "temperature": 0,
            "max_tokens": 1,
            "logprobs": 1,
            "seed": 1234,
            "echo": True,
        }
        answer = server.client().completions.create(**body)
        for ids, choice in zip(prompts, sorted(answer.choices, key=lambda choice: choice.index), strict=True):
            ours = model.score(model.tokenizer.decode(ids[1:]))
            found = choice.logprobs.token_logprobs[1:-1]
            assert sum(found) == pytest.approx(ours.logprob, abs=1e-4)
            tops = choice.logprobs.top_logprobs[1:-1]
            greedy = [value == max(top.values()) for value, top in zip(found, tops, strict=True)]
            assert greedy == [rank == 0 for rank in ours.ranks]
        asked = {"until": ["\n"], "do_sample": False}
        text = server.client().completions.create(
            model="gpt2-mini", prompt=texts, max_tokens=20, temperature=0, stop=["\n", "<|endoftext|>"], seed=1234,
            extra_body=asked,
        )  # fmt: skip
        for choice, prompt in zip(text.choices, texts, strict=True):
            assert choice.text == model.generate(prompt, max_tokens=20, temperature=0, stop=("\n",)).text
    assert server.end() == 0


def test_nothing_that_the_schema_allows_or_forbids_gets_a_5xx(process: Any, tmp_path: Path) -> None:
    server = process("--log-text")
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        *("run", f"{server.url}/openapi.json", "--max-examples", "30", "--seed", "1", "--phases", "examples,fuzzing"),
        *(
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ),
        *("--request-timeout", "600", "--suppress-health-check", "too_slow", "--workers", "2", "--no-color"),
        *("--mode", "all"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    assert server.get("/health/live")[0] == 200
    assert server.end() == 0
