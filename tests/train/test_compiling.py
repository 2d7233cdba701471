"""The path that a CPU with bf16 units takes once it is compiled, and what a broken cache of the compiler does to it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpt2.errors import TrainingError
from gpt2.model.gpt import GPT
from gpt2.model.init import initialize
from gpt2.train import TrainConfig
from gpt2.train.activated_map import activated_map
from gpt2.train.attention_blocks import attend_in_blocks
from gpt2.train.compiling import failed, with_own_cache
from gpt2.train.precision import Precision, can_compile
from gpt2.train.step import Learner

BF16 = Precision(device=torch.device("cpu"), dtype=torch.bfloat16, reason="for a test")
BROKEN = RuntimeError("Failed to import /its/cache/ab/cab.py\nSyntaxError: unterminated string")
Make = Callable[..., TrainConfig]

pytestmark = [  # of PyTorch's own compiler
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]


def learner(config: TrainConfig) -> Learner:
    model = GPT(config.model)
    initialize(model, torch.Generator().manual_seed(1), zero_projections=False)
    return Learner(model, config, BF16)


def batch(config: TrainConfig) -> tuple[object, object]:
    ids = torch.randint(config.model.vocab_size, (5, 33), generator=torch.Generator().manual_seed(2)).numpy()
    return ids[:4, :-1], ids[:4, 1:]


def test_compiled_in_bf16_a_cpu_has_the_faster_parts_and_no_other_run_has(make_config: Make) -> None:
    for compiled in (True, False):
        pupil = learner(make_config(loss={"rows": 0}, run={"compile": compiled, "dtype": "bf16"}))
        for block in pupil.model.h:
            parts = block.get_submodule("attn"), block.get_submodule("mlp")
            assert parts[0].attend is (attend_in_blocks if compiled else None)
            assert parts[1].activated_map is (activated_map if compiled else None)


@pytest.mark.long
def test_a_step_of_the_faster_parts_survives_a_broken_cache_and_is_as_exact_as_the_plain_one(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not can_compile(BF16.device):
        pytest.skip("there is no C++ compiler here")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch.compiler.reset()
    sections = {"loss": {"rows": 0}, "optim": {"matrices": "adamw"}}
    exact, plain, compiled = (
        learner(make_config(run={"compile": on, "dtype": dtype, "micro_batch_tokens": 128}, **sections))
        for dtype, on in (("fp32", False), ("bf16", False), ("bf16", True))
    )
    exact.precision = Precision(device=BF16.device, dtype=torch.float32, reason="for a test")
    inputs, targets = batch(compiled.config)
    reports = []
    for pupil in (exact, plain, compiled):
        pupil.optimizers = []  # so that weights and gradients of one step can be compared
        pupil.model.zero_grad = lambda set_to_none=True: None
        reports.append(pupil.step(inputs, targets, step=1, tokens=0))
    gradients = [torch.cat([p.grad.flatten() for p in pupil.model.parameters()]) for pupil in (exact, plain, compiled)]
    errors = [float((found - gradients[0]).norm() / gradients[0].norm()) for found in gradients[1:]]
    assert 0.0 < errors[0] < 0.02, "bf16 rounds"
    assert errors[1] < 1.3 * errors[0]
    assert reports[2].loss == pytest.approx(reports[0].loss, rel=1e-3)

    made = [path for path in (tmp_path / "cache").rglob("*.py") if path.is_file()]
    assert made, "compiled code lies there"
    for path in made:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    torch.compiler.reset()
    again = learner(compiled.config).step(inputs, targets, step=1, tokens=0)
    assert again.loss == reports[2].loss
    assert again.grad_norm == reports[2].grad_norm
    assert str(tmp_path / "cache") in caplog.text and "remove that folder" in caplog.text
    torch.compiler.reset()


def test_where_an_empty_cache_does_not_help_either_the_error_says_what_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/its/cache")
    undone: list[int] = []

    def compute() -> None:
        from torch._dynamo.exc import BackendCompilerFailed

        if not undone:
            raise BROKEN
        raise BackendCompilerFailed(torch.compile, ValueError("no room"), None)

    with pytest.raises(TrainingError, match=r"with an empty cache too: ValueError: no room.*run\.compile=false"):
        with_own_cache(compute, before_again=lambda: undone.append(1))
    assert undone == [1]


def test_other_errors_are_not_taken_for_the_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/its/cache")
    assert failed(BROKEN)
    assert not failed(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    assert not failed(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    with pytest.raises(RuntimeError, match="can't allocate"):
        with_own_cache(lambda: raising(RuntimeError("can't allocate")), before_again=list)


def raising(error: RuntimeError) -> None:
    raise error
