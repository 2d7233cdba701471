"""Other engines behind the same two verbs: read prompts, decode greedily. Each needs its package.

All get the weights of one Hugging Face folder, converted beside it if an engine has its own format. Each is called by
its leanest interface, and decodes exactly as many tokens as asked for.
"""

import queue
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.bench.onnx_graph import write_onnx
from gpt2.bench.openvino_graph import openvino_model
from gpt2.checkpoint import read, write
from gpt2.machine import physical_cores


class Transformers:
    """Hugging Face transformers: calls its forward pass and cache directly, which is less work than its `generate`."""

    def __init__(self, folder: str, *, form: str, device: str, threads: int | None) -> None:
        import torch
        import transformers

        if threads is not None:
            torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        self._torch: Any = torch
        self._device = "cpu" if device == "auto" else device
        torch.backends.cuda.enable_cudnn_sdp(False)  # cuDNN plans again for each length: 60 ms a token
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
                self._next.tolist()  # waits for the device before the clock stops


class CompiledTransformers(Transformers):
    """Its `generate` with a cache of fixed size, which compiles the step for one token and records it as a CUDA graph.

    It starts from the prompts each time, so the time of decoding includes reading them.
    """

    def __init__(self, folder: str, *, form: str, device: str, threads: int | None) -> None:
        super().__init__(folder, form=form, device=device, threads=threads)
        self.name += " compiled"
        self._prompts: Any = None

    def prefill(self, prompts: list[list[int]]) -> None:
        """See `Engine`."""
        super().prefill(prompts)
        self._prompts = self._torch.tensor(np.array(prompts), device=self._device)

    def decode(self, n_tokens: int) -> None:
        """See `Engine`."""
        options = {"max_new_tokens": n_tokens, "min_new_tokens": n_tokens, "do_sample": False, "pad_token_id": 0}
        mask = self._torch.ones_like(self._prompts)
        self._model.generate(self._prompts, attention_mask=mask, cache_implementation="static", **options).tolist()


class LlamaCpp:
    """llama.cpp through its C interface, as compiled by llama-cpp-python for this processor; one step a call."""

    def __init__(self, folder: str, *, form: str, threads: int | None) -> None:
        llama: Any = import_module("llama_cpp")
        model = gguf_file(folder, form)
        config = read(folder).config
        self._llama = llama
        self._threads = threads or physical_cores()
        self.vocab_size, self.n_positions = config.vocab_size, config.n_positions
        self._silent: Any = llama.llama_log_callback(lambda level, text, data: None)  # llama.cpp keeps a pointer to it
        llama.llama_log_set(self._silent, None)
        llama.llama_backend_init()
        self._model: Any = llama.llama_model_load_from_file(str(model).encode(), llama.llama_model_default_params())
        self._contexts: dict[int, Any] = {}
        self._context: Any = None
        self._room = llama.llama_context_default_params().n_batch
        self._batch: Any = llama.llama_batch_init(self._room, 0, 1)
        self.name = f"llama.cpp (llama-cpp-python {_version('llama-cpp-python')}) {form}"
        self._next: list[int] = []
        self._length = 0

    def prefill(self, prompts: list[list[int]]) -> None:
        """See `Engine`."""
        llama, length = self._llama, len(prompts[0])
        if len(prompts) not in self._contexts:  # sized to need: for several, room to double each
            settings: Any = llama.llama_context_default_params()
            settings.n_ctx = self.n_positions if len(prompts) == 1 else 2 * length * len(prompts)
            settings.n_seq_max = len(prompts)
            settings.n_threads = settings.n_threads_batch = self._threads
            self._contexts[len(prompts)] = llama.llama_init_from_model(self._model, settings)
        self._context = self._contexts[len(prompts)]
        llama.llama_memory_clear(llama.llama_get_memory(self._context), True)
        self._length, self._next = 0, []
        at_once = self._room // length
        for first in range(0, len(prompts), at_once):
            self._next += self._step(prompts[first : first + at_once], first)
        self._length = length

    def decode(self, n_tokens: int) -> None:
        """See `Engine`."""
        for _ in range(n_tokens):
            self._next = self._step([[token] for token in self._next], 0)
            self._length += 1

    def _step(self, rows: list[list[int]], first: int) -> list[int]:
        batch, length = self._batch, len(rows[0])
        batch.n_tokens = len(rows) * length
        for row, tokens in enumerate(rows):
            for place, token in enumerate(tokens):
                at = row * length + place
                batch.token[at], batch.pos[at] = token, self._length + place
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, first + row
                batch.logits[at] = place == length - 1
        failed = self._llama.llama_decode(self._context, batch)
        assert not failed, f"llama.cpp could not decode: {failed}"
        return [self._best(row * length + length - 1) for row in range(len(rows))]

    def _best(self, at: int) -> int:
        logits = self._llama.llama_get_logits_ith(self._context, at)
        return int(np.ctypeslib.as_array(logits, (self.vocab_size,)).argmax())


def gguf_file(folder: str | Path, form: str) -> Path:
    """The model in llama.cpp's format, written beside the folder if it is not there yet."""
    model = Path(folder).with_name(f"{Path(folder).name}-{form}.gguf")
    if not model.exists():
        found = read(folder)
        write(model, found.weights, found.tokenizer(), format="gguf", form=form)
    return model


class CTranslate2:
    """CTranslate2. It has no call for one step, so its generation is paused at each token until the next is wanted."""

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
        self._came.get()  # wait for the batch's first token

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
    """The base of engines that run an ONNX graph of GPT-2 with its cache as input and output."""

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


class OpenVino:
    """OpenVINO, with keys and values as its states, in the precision it chooses or with its own compressed weights."""

    def __init__(self, folder: str, *, form: str, threads: int | None) -> None:
        import openvino  # pyright: ignore[reportMissingImports]

        found = read(folder)
        graph = openvino_model(found.weights)
        if form:
            import nncf  # pyright: ignore[reportMissingImports]

            modes: Any = nncf.CompressWeightsMode
            narrow: Any = {"mode": modes.INT4_SYM, "group_size": 64} if form == "int4" else {"mode": modes.INT8_SYM}
            graph = nncf.compress_weights(graph, **narrow)
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        core: Any = openvino.Core()
        model: Any = core.compile_model(graph, "CPU", settings)
        precision = str(model.get_property("INFERENCE_PRECISION_HINT")).rpartition("'")[0].rpartition("'")[2]
        self._request: Any = model.create_infer_request()
        self.name = f"OpenVINO {openvino.__version__.partition('-')[0]} {form or precision}"
        self.vocab_size, self.n_positions = found.config.vocab_size, found.config.n_positions
        self._next: Any = None
        self._length = 0

    def prefill(self, prompts: list[list[int]]) -> None:
        """See `Engine`."""
        self._request.reset_state()
        self._length = 0
        self._step(np.array(prompts, np.int64))

    def decode(self, n_tokens: int) -> None:
        """See `Engine`."""
        for _ in range(n_tokens):
            self._step(self._next)

    def _step(self, ids_BT: Any) -> None:
        n_rows, n_tokens = ids_BT.shape
        positions_T = np.arange(self._length, self._length + n_tokens)
        same = np.arange(n_rows, dtype=np.int32)
        logits_BV = self._request.infer([ids_BT, positions_T, same], share_inputs=True, share_outputs=True)[0]
        self._next = logits_BV.argmax(-1)[:, None]
        self._length += n_tokens


def _words(tokenizer: Any, vocab_size: int) -> list[str]:
    """CTranslate2's names of ids: GPT-2's printable stand-ins for bytes."""
    from gpt2.tokenizer.alphabet import letters

    return ["<|endoftext|>" if id == tokenizer.eot else letters(tokenizer.token_bytes(id)) for id in range(vocab_size)]


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
