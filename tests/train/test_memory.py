"""Counted in page faults, not in time."""

import pytest
import torch

from gpt2.train import memory

ARRAY_BYTES = 33 << 20  # more than the C library ever keeps of itself


def faults() -> int:
    resource = pytest.importorskip("resource")
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def fill_an_array() -> int:
    """The pages that had to be asked for."""
    before = faults()
    torch.ones(ARRAY_BYTES // 4)
    return faults() - before


def test_freed_memory_serves_again_without_new_pages() -> None:
    with memory.kept_memory() as known:
        if not known:
            pytest.skip("the C library is not glibc")
        for _ in range(40):  # the first leave small pieces between arrays, up to nine were seen, which lie there apart
            newest = fill_an_array()
        assert newest < 100  # of 8,448


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    with memory.kept_memory() as known:
        assert not known
