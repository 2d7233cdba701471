"""Finding the library, and saying so where it is not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2.errors import BackendError
from gpt2.native import library as library_module
from gpt2.native.library import Library, choose_level


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler is here")
def test_it_is_built_where_there_is_a_compiler() -> None:
    Library.load()  # else every other test of the engine would skip, and nobody would notice


def test_there_is_always_a_portable_level(library: Library) -> None:
    assert library.levels[-1] == "portable"


def test_tiles_that_the_system_refuses_are_said(library: Library) -> None:
    if "amx" not in library.levels:
        pytest.skip("needs a processor with AMX")
    done = subprocess.run([sys.executable, "-c", SMALL_SIGNAL_STACK], capture_output=True, text=True, check=True)
    assert done.stdout.split(",")[0] == "avx512-bf16"
    assert "AMX is not used" in done.stderr


# Linux gives no tiles to a process in which a signal would have to save them on so small a stack.
SMALL_SIGNAL_STACK = """
import ctypes

class Stack(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

room = ctypes.create_string_buffer(8192)
assert ctypes.CDLL(None).sigaltstack(ctypes.byref(Stack(ctypes.addressof(room), 0, len(room))), None) == 0
from gpt2.native.library import Library
print(",".join(Library.load().levels))
"""


def test_the_environment_forces_a_level(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2_ISA", "portable")
    assert choose_level(library) == "portable"
    monkeypatch.delenv("GPT2_ISA")
    assert choose_level(library) == library.levels[0]


def test_an_unknown_level_names_those_there_are(library: Library) -> None:
    with pytest.raises(BackendError, match="portable"):
        choose_level(library, "mmx")


def test_a_file_that_is_no_library_is_an_error_that_helps(tmp_path: Path) -> None:
    (tmp_path / "broken.so").write_bytes(b"not a library")
    with pytest.raises(BackendError, match="compiler"):
        Library(tmp_path / "broken.so")


def test_a_library_of_another_interface_is_said(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_module, "ABI", library_module.ABI + 1)
    with pytest.raises(BackendError, match=r"another version\. Build it again"):
        Library(library.path)


def test_a_library_of_something_else_is_an_error_that_helps() -> None:
    import _ctypes

    with pytest.raises(BackendError, match="cannot be loaded"):
        Library(Path(_ctypes.__file__))


def test_where_it_was_not_built_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPT2_NATIVE_LIBRARY", raising=False)
    monkeypatch.setattr(library_module, "__file__", str(tmp_path / "library.py"))
    with pytest.raises(BackendError, match="Install a C\\+\\+17 compiler"):
        library_module._find()


def test_a_library_of_other_source_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, library: Library
) -> None:
    built = tmp_path / library.path.name
    shutil.copy(library.path, built)
    sources = Path(library_module.__file__).parent
    for file in (*sources.glob("*.cpp"), *sources.glob("*.h")):
        shutil.copyfile(file, tmp_path / file.name)  # of another time
    monkeypatch.setenv("GPT2_NATIVE_LIBRARY", str(built))
    Library.load.__wrapped__()
    assert not caplog.records  # and this build is of these sources
    with (tmp_path / "engine.cpp").open("a", encoding="utf-8") as file:
        file.write("// changed")
    Library.load.__wrapped__()
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "other source" in record.getMessage()
    assert "pip install" in record.getMessage()


def test_importing_loads_nothing() -> None:
    code = "import sys, gpt2.native; from gpt2.native.library import Library; print(Library.load.cache_info().currsize)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "0\n"
