"""Levels that this machine does not run: NEON under an emulator, AVX-VNNI by its twins in AVX-512, AMX in plain C++.

And the levels that it does run, by another compiler and under another system.
"""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from gpt2.native import library as library_module

NATIVE = Path(library_module.__file__).parent
CHECK = Path(__file__).with_name("level_check.cpp")
FLAGS = ["-std=c++17", "-O1", "-ffp-contract=off", "-fno-math-errno", "-Wno-psabi", f"-I{NATIVE}", f"-I{CHECK.parent}"]
CORE = [*sorted(file.stem for file in NATIVE.glob("*.cpp") if not file.stem.startswith("level_")), "level_portable"]

AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vnni"))]
AVX512_BF16 = [*AVX512, "-mavx512bf16"]
WINE = Path("/usr/lib/wine/wine64")

pytestmark = pytest.mark.long


SANITIZED = "-fsanitize=address,undefined"


def build(compiler: str, folder: Path, levels: dict[str, list[str]], *defines: str) -> Path:
    """The check as one program, static if it is not sanitized, each level with its own flags."""
    objects = []
    for name, flags in {**{name: [] for name in CORE}, **levels}.items():
        objects.append(folder / f"{name}.o")
        source = NATIVE / f"{name}.cpp"
        command = [compiler, *FLAGS, *flags, *defines, "-w", "-c", str(source), "-o", str(objects[-1])]
        subprocess.run(command, check=True)
    program = folder / "check.exe"  # by which name Windows wants it
    kind = SANITIZED if SANITIZED in defines else "-static"
    command = [compiler, *FLAGS, str(CHECK), *map(str, objects), "-o", str(program), kind, "-pthread"]
    subprocess.run(command, check=True)
    return program


@pytest.fixture(scope="module")
def arm_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = "aarch64-linux-gnu-g++"
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler} is here (Debian: apt install g++-aarch64-linux-gnu)")
    dot = {"level_neon": [], "level_neon_dotprod": ["-march=armv8.2-a+dotprod"]}
    return build(compiler, tmp_path_factory.mktemp("arm"), dot, "-DGPT2_LEVELS_ARM")


@pytest.mark.parametrize(("cpu", "levels"), [("cortex-a72", ["neon"]), ("max", ["neon-dotprod", "neon"])])
def test_neon_under_emulation(arm_program: Path, cpu: str, levels: list[str]) -> None:
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if not emulator:
        pytest.skip("no qemu-aarch64 is here (Debian: apt install qemu-user-static)")
    command = [emulator, "-cpu", cpu, str(arm_program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.stdout.splitlines() == [f"{level}: well" for level in (*levels, "portable")], done.stderr


def test_avx_vnni_by_the_same_instructions_of_avx512(tmp_path: Path) -> None:
    found = library_module.Library.load().levels
    if platform.machine() not in ("x86_64", "AMD64") or "avx512-vnni" not in found or not shutil.which("g++"):
        pytest.skip("needs g++ and a processor with AVX-512 VNNI")
    levels = {
        "level_avx2": AVX2,
        "level_avx2_vnni": [*AVX2, "-mavx512vnni", "-mavx512vl"],
        "level_avx512_vnni": AVX512,
        "level_avx512_bf16": AVX512_BF16,
    }
    defines = [f"-DGPT2_{name.upper()}" for name in levels]
    program = build("g++", tmp_path, levels, *defines, "-DGPT2_LEVELS_X86", "-DGPT2_AVX_VNNI_BY_AVX512")
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=1200, check=False)
    assert "avx2-vnni: well" in done.stdout.splitlines(), done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize("by_itself", [0, 1])
def test_a_processor_that_prefetches_by_itself_or_not(by_itself: int, tmp_path: Path) -> None:
    if "avx2" not in library_module.Library.load().levels or not shutil.which("g++"):
        pytest.skip("needs g++ and a processor with AVX2")
    defines = ["-DGPT2_LEVELS_X86", "-DGPT2_LEVEL_AVX2", f"-DGPT2_PREFETCHES_STREAMS={by_itself}"]
    program = build("g++", tmp_path, {"level_avx2": AVX2}, *defines)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=1200, check=False)
    assert done.stdout.splitlines() == ["avx2: well", "portable: well"]
    assert done.returncode == 0


@pytest.mark.parametrize("system", ["linux-clang", "windows-mingw"])
def test_by_another_compiler(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = {"linux-clang": "clang++", "windows-mingw": "x86_64-w64-mingw32-g++-posix"}[system]
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler} is here (Debian: apt install clang g++-mingw-w64-x86-64-posix)")
    if system == "windows-mingw" and not WINE.exists():
        pytest.skip(f"there is no {WINE} (Debian: apt install wine64)")
    levels = {"level_avx2": AVX2, "level_avx512_vnni": AVX512, "level_avx512_bf16": AVX512_BF16}
    defines = [f"-DGPT2_{name.upper()}" for name in levels]
    unaligned = ["-Wa,-muse-unaligned-vector-move"] if system == "windows-mingw" else []  # see CMakeLists.txt
    program = build(compiler, tmp_path, levels, *defines, "-DGPT2_LEVELS_X86", *unaligned)
    monkeypatch.setenv("WINEPREFIX", str(tmp_path / "wine"))
    monkeypatch.setenv("WINEDEBUG", "-all")
    command = [str(WINE), str(program)] if system == "windows-mingw" else [str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert [line for line in done.stdout.splitlines() if line] == [
        f"{level}: well" for level in library_module.Library.load().levels if level not in ("amx", "avx2-vnni")
    ]


@pytest.mark.parametrize("broken", [False, True], ids=["right", "wrong"])
def test_amx_by_tiles_in_plain_cpp(tmp_path: Path, broken: bool) -> None:
    if "avx512-bf16" not in library_module.Library.load().levels or not shutil.which("g++"):
        pytest.skip("needs g++ and a processor with AVX-512 BF16")
    levels = {"level_avx512_bf16": AVX512_BF16, "level_amx": AVX512_BF16}
    defines = ["-DGPT2_LEVELS_X86", "-DGPT2_LEVEL_AVX512_BF16", "-DGPT2_LEVEL_AMX", "-DGPT2_TILES_EMULATED"]
    # No sanitizer sees what a processor's tiles read and write, but it sees these.
    program = build("g++", tmp_path, levels, *defines, "-DGPT2_TILES_BROKEN" if broken else SANITIZED)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=1200, check=False)
    lines = done.stdout.splitlines()
    if broken:  # a processor whose tiles are wrong: said, and not used
        assert lines == [lines[0], "avx512-bf16: well", "portable: well"], done.stdout
        assert "AMX is not used" in lines[0]
    else:
        assert lines == ["amx: well", "avx512-bf16: well", "portable: well"], done.stdout
    assert done.returncode == 0
