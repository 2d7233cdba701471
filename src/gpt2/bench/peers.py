"""Other engines behind the same two verbs: read prompts, decode greedily. Each runs where its package is installed.

All get the weights of one Hugging Face folder, converted beside it where an engine has its own format. Each is called
by the leanest way it offers, and decodes exactly as many tokens as it is asked for.
"""

import queue
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.bench.onnx_graph import write_onnx
from gpt2.checkpoint import read, write


class Transformers:
    """Hugging Face transformers: its forward pass and cache called directly, which is less work than its `generate`."""

    def __init__(self, folder: str, *, form: str, device: str, threads: int | None) -> None:
        import torch
        import transformers

        if threads is not None:
            torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        self._torch: Any = torch
        self._device = "cpu" if device == "auto" else device
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[form]
        loader: Any = transformers.AutoModelForCausalLM
        self._model: Any = loader.from_pretrained(folder, dtype=dtype).to(self._device).eval()
        self.name = f"transformers {transformers.__version__} {form}"
        self.vocab_size: int = self._model.config.vocab_size
        self.n_positions: int = self._model.config.n_positions
        self._cache: Any = None
        self._next: Any = None

    def prefill(self, prompts: list[list[int]]) -> None:
        """See `Engine`."""
        self._cache = None
        self._step(self._torch.tensor(np.array(prompts), device=self._device))

    def decode(self, n_tokens: int) -> None:
        """See `Engine`."""
        for _ in range(n_tokens):
            self._step(self._next)

    def _step(self, ids_BT: Any) -> None:
        with self._torch.inference_mode():
            answer = self._model(ids_BT, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
            self._cache = answer.past_key_values
            self._next = answer.logits[:, -1].argmax(-1, keepdim=True)
            if self._device != "cpu":
                self._next.tolist()  # the clock would otherwise stop before the device does


class LlamaCpp:
    """llama.cpp through the server of xllamacpp, called in the process: one request for each sequence of a batch."""

    _SEQUENCES = 16

    def __init__(self, folder: str, *, form: str, threads: int | None) -> None:
        llama: Any = import_module("xllamacpp")
        model = gguf_file(folder, form)
        config = read(folder).config
        settings: Any = llama.CommonParams()
        settings.model.path = str(model)
        settings.n_parallel = self._SEQUENCES
        settings.n_ctx = config.n_positions * self._SEQUENCES
        settings.kv_unified = True
        settings.verbosity = -1
        settings.warmup = False
        if threads is not None:
            settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
        self._server: Any = llama.Server(settings)
        self.name = f"llama.cpp (xllamacpp {_version('xllamacpp')}) {form}"
        self.vocab_size, self.n_positions = config.vocab_size, config.n_positions
        self._prompts: list[list[int]] = []

    def prefill(self, prompts: list[list[int]]) -> None:
        """See `Engine`."""
        self._prompts = prompts
        self._complete(1, cached=False)

    def decode(self, n_tokens: int) -> None:
        """See `Engine`: the prompt is in the cache, but for its last token, whose step gives the first of these."""
        self._complete(n_tokens, cached=True)

    def _complete(self, n_tokens: int, *, cached: bool) -> None:
        done: list[int] = []

        def one(number: int) -> None:
            request = {
                "prompt": self._prompts[number],
                "n_predict": n_tokens,
                "id_slot": number,
                "cache_prompt": cached,
                "temperature": 0,
                "ignore_eos": True,
                "samplers": ["temperature"],
            }
            answer = self._server.handle_completions(request)
            done.append(int(answer["timings"]["predicted_n"]))

        threads = [threading.Thread(target=one, args=(number,)) for number in range(len(self._prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert done == [n_tokens] * len(self._prompts), f"llama.cpp decoded {done} tokens, not {n_tokens} each"


def gguf_file(folder: str | Path, form: str) -> Path:
    """The model as llama.cpp reads it, written beside the folder if it is not there yet."""
    model = Path(folder).with_name(f"{Path(folder).name}-{form}.gguf")
    if not model.exists():
        found = read(folder)
        write(model, found.weights, found.tokenizer(), format="gguf", form=form)
    return model


class CTranslate2:
    """CTranslate2. It has no call for one step: its generation is held back at each token until it is wanted."""

    def __init__(self, folder: str, *, form: str, threads: int | None) -> None:
        import ctranslate2  # pyright: ignore[reportMissingImports]

        model = Path(folder).with_name(f"{Path(folder).name}-ct2-{form}")
        if not model.exists():
            converters: Any = ctranslate2.converters
            converters.TransformersConverter(folder).convert(str(model), quantization=form)
        found = read(folder)
        self._generator: Any = ctranslate2.Generator(
            str(model), device="cpu", intra_threads=threads or 0, compute_type=form
        )
        self._words = _words(found.tokenizer(), found.config.vocab_size)
        self.name = f"CTranslate2 {ctranslate2.__version__} {form}"
        self.vocab_size, self.n_positions = found.config.vocab_size, found.config.n_positions
        self._came: queue.Queue[None] = queue.Queue()
        self._wanted = threading.Semaphore(0)
        self._stop = False
        self._running: Any = None
        self._batch = 0

    def prefill(self, prompts: list[list[int]]) -> None:
        """See `Engine`."""
        self._end()
        self._batch, self._stop = len(prompts), False

        def token(_: Any) -> bool:
            self._came.put(None)
            self._wanted.acquire()
            return self._stop

        self._running = self._generator.generate_batch(
            [[self._words[id] for id in prompt] for prompt in prompts],
            max_length=self.n_positions - len(prompts[0]),
            include_prompt_in_result=False,
            end_token=[],
            sampling_topk=1,
            callback=token,
            asynchronous=True,
        )
        self._came.get()  # of the batch's first tokens, the first

    def decode(self, n_tokens: int) -> None:
        """See `Engine`."""
        for _ in range(n_tokens * self._batch):
            self._wanted.release()
            self._came.get()

    def _end(self) -> None:
        self._stop = True
        if self._running:
            self._wanted.release(self._batch * self.n_positions)
            for each in self._running:
                each.result()
            while self._wanted.acquire(blocking=False):
                pass
            self._came = queue.Queue()


class _Onnx:
    """What the engines that run an ONNX graph have in common: the graph of GPT-2 with its cache as input and output."""

    def __init__(self, folder: str) -> None:
        found = read(folder)
        self.config = found.config
        self.graph = Path(folder).with_name(f"{Path(folder).name}.onnx")
        if not self.graph.exists():
            write_onnx(self.graph, found.weights)
        self.vocab_size, self.n_positions = self.config.vocab_size, self.config.n_positions
        self._cache: Any = None
        self._next: Any = None

    def prefill(self, prompts: list[list[int]]) -> None:
        """See `Engine`."""
        ids_BT = np.array(prompts, np.int64)
        shape = (2 * self.config.n_layer, len(prompts), self.config.n_head, 0, self.config.head_width)
        self._step(ids_BT, list(np.zeros(shape, np.float32)))

    def decode(self, n_tokens: int) -> None:
        """See `Engine`."""
        for _ in range(n_tokens):
            self._step(self._next, self._cache)

    def _step(self, ids_BT: Any, cache: Any) -> None:
        logits_BV, *self._cache = self.run(ids_BT, cache)
        self._next = np.asarray(logits_BV).argmax(-1)[:, None].astype(np.int64)

    run: Callable[[Any, Any], Any]


class OnnxRuntime(_Onnx):
    """onnxruntime, in fp32 or with its own dynamic quantisation to int8."""

    def __init__(self, folder: str, *, form: str, threads: int | None) -> None:
        import onnxruntime  # pyright: ignore[reportMissingImports]

        super().__init__(folder)
        graph = self.graph
        if form == "int8":
            from onnxruntime.quantization import quantize_dynamic  # pyright: ignore[reportMissingImports]

            graph = self.graph.with_name(f"{self.graph.stem}-int8.onnx")
            if not graph.exists():
                quantize_dynamic(self.graph, graph, per_channel=True)
        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        session: Any = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        self.run = lambda ids, cache: session.run(None, dict(zip(names, [ids, *cache], strict=True)))
        self.name = f"onnxruntime {onnxruntime.__version__} {form}"


class OpenVino(_Onnx):
    """OpenVINO on the same graph, at the precision it chooses for this processor, or with its own narrow weights."""

    def __init__(self, folder: str, *, form: str, threads: int | None) -> None:
        import openvino  # pyright: ignore[reportMissingImports]

        super().__init__(folder)
        core: Any = openvino.Core()
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        graph: Any = core.read_model(str(self.graph))
        if form:
            import nncf  # pyright: ignore[reportMissingImports]

            modes: Any = nncf.CompressWeightsMode
            narrow: Any = {"mode": modes.INT4_SYM, "group_size": 64} if form == "int4" else {"mode": modes.INT8_SYM}
            graph = nncf.compress_weights(graph, **narrow)
        model: Any = core.compile_model(graph, "CPU", settings)
        request: Any = model.create_infer_request()
        precision = str(model.get_property("INFERENCE_PRECISION_HINT")).rpartition("'")[0].rpartition("'")[2]

        def run(ids: Any, cache: Any) -> list[Any]:
            answer: Any = request.infer([ids, *cache])
            return [answer[number] for number in range(len(model.outputs))]

        self.run = run
        self.name = f"OpenVINO {openvino.__version__.partition('-')[0]} {form or precision}"


def _words(tokenizer: Any, vocab_size: int) -> list[str]:
    """Ids as CTranslate2 calls them: GPT-2's printable stand-ins for bytes."""
    from gpt2.tokenizer.alphabet import letters

    return ["<|endoftext|>" if id == tokenizer.eot else letters(tokenizer.token_bytes(id)) for id in range(vocab_size)]


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
