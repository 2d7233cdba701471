"""Files and streams: the ids of the whole text, whatever the blocks and however many processes."""

import io
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2.errors import TokenizerError
from gpt2.tokenizer import Tokenizer, encode_file, encode_stream, read_text
from gpt2.tokenizer.stream import spans

TEXT = "It's 1 o'clock;  they'll come\n\n at 12:30.\t你好,世界 \u3000\u3000 x<|endoftext|>  <|endoftext|>é😀\r\n" * 40
ATOMS = [b"a", b" ", b"  ", b"\n", b"'", b"s", b"1", b".", b"<|endoftext|>", "é".encode(), "\u3000".encode()]
ATOMS += ["你好。".encode(), "😀".encode(), "\U0001fae9".encode(), b"\xff", b"\xe4\xbd", b"\x80", b"\xf0\x9f\x98"]
DATA = st.lists(st.sampled_from(ATOMS), max_size=60).map(b"".join)


def ids_of(tokenizer: Tokenizer, path: Path, **settings) -> list[int]:
    return [i for part in encode_file(tokenizer, path, **settings) for i in part]


@pytest.mark.parametrize("allow_special", [False, True])
def test_every_block_size_gives_the_ids_of_the_whole(tokenizer: Tokenizer, tmp_path: Path, allow_special: bool) -> None:
    file = tmp_path / "text"
    file.write_bytes(TEXT.encode())
    expected = tokenizer.encode(TEXT, allow_special=allow_special)
    for block_bytes in (1, 16, 17, 31, 64, 100, 333, 1000, 1 << 20):
        assert ids_of(tokenizer, file, block_bytes=block_bytes, allow_special=allow_special) == expected
    for size in (1, 7, 100, 5000):
        parts = [TEXT[i : i + size] for i in range(0, len(TEXT), size)]
        streamed = encode_stream(tokenizer, parts, allow_special=allow_special)
        assert [i for ids in streamed for i in ids] == expected


@settings(
    derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.lists(st.sampled_from(ATOMS), max_size=60).map(b"".join), block=st.integers(8, 40), special=st.booleans()
)
def test_broken_bytes_in_any_block(
    tokenizer: Tokenizer, tmp_path: Path, data: bytes, block: int, special: bool
) -> None:
    file = tmp_path / "bytes"
    file.write_bytes(data)
    expected = tokenizer.encode(data.decode("utf-8", "replace"), allow_special=special)
    assert ids_of(tokenizer, file, block_bytes=block, errors="replace", allow_special=special) == expected
    parts = read_text(io.BytesIO(data), source="bytes", errors="replace")
    assert [i for ids in encode_stream(tokenizer, parts, allow_special=special) for i in ids] == expected


def test_processes_give_the_same_ids_in_order(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(TEXT.encode() * 5)
    expected = tokenizer.encode_array(TEXT * 5)
    parts = [np.asarray(part) for part in encode_file(tokenizer, file, processes=2, block_bytes=1500)]
    assert len(parts) > 8
    assert np.array_equal(np.concatenate(parts), expected)


def test_a_process_that_dies_is_an_error_in_words(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(TEXT.encode() * 5)
    parts = encode_file(tokenizer, file, processes=2, block_bytes=1000)
    next(parts)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(TokenizerError, match="a process that encodes it died"):
        list(parts)


def test_an_added_word_is_never_cut(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"covid 19": 50257}', encoding="utf-8")
    added = Tokenizer.from_folder(tmp_path)
    text = "a covid 19 case, covid 19 cases " * 50
    (tmp_path / "text").write_text(text, encoding="utf-8")
    whole = added.encode(text)
    assert whole.count(50257) == 100
    for block_bytes in (8, 17, 64):
        parts = encode_file(added, tmp_path / "text", block_bytes=block_bytes)
        assert [i for part in parts for i in part.tolist()] == whole
    assert [i for part in encode_stream(added, list(text)) for i in part] == whole


@pytest.mark.parametrize("processes", [0, -1])
def test_fewer_than_one_process_is_refused(tokenizer: Tokenizer, tmp_path: Path, processes: int) -> None:
    with pytest.raises(TokenizerError, match="processes must be at least 1"):
        ids_of(tokenizer, tmp_path / "text", processes=processes)


def test_a_caller_may_stop_early(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(TEXT.encode() * 5)
    parts = encode_file(tokenizer, file, processes=2, block_bytes=1000)
    assert len(next(parts)) > 0
    parts.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_the_first_wrong_byte_of_a_file_is_named(tokenizer: Tokenizer, tmp_path: Path, processes: int) -> None:
    file = tmp_path / "text"
    file.write_bytes(b"word " * 2000 + b"\xc3( and \xff")
    with pytest.raises(TokenizerError, match=r"byte 0xC3 at offset 10000 is not UTF-8.*--errors replace"):
        ids_of(tokenizer, file, processes=processes, block_bytes=1000)


def test_the_first_wrong_byte_of_a_stream_is_named() -> None:
    for data, offset in [
        (b"ab\xff", 2),
        (b"ab\xff\xfe", 2),
        (b"x" * 65535 + b"\xc3(", 65535),
        (b"x" * 70000 + b"\xf0\x9f", 70000),
        (b"x" * 65535 + "é".encode() + b"x" * 70000 + b"\xff", 135537),
    ]:
        with pytest.raises(TokenizerError, match=rf"here cannot be read .* at offset {offset} "):
            list(read_text(io.BytesIO(data), source="here"))


def test_a_character_across_two_reads_is_whole() -> None:
    text = "x" * 65535 + "😀" + "y"
    assert "".join(read_text(io.BytesIO(text.encode()), source="here")) == text


def test_a_special_token_across_two_parts_is_whole(tokenizer: Tokenizer) -> None:
    parts = ["w " * 32765, "<|endoft", "ext|> a"]  # the second part fills a block
    ids = [i for part in encode_stream(tokenizer, parts, allow_special=True) for i in part]
    assert ids == tokenizer.encode("".join(parts), allow_special=True)
    assert tokenizer.eot in ids


def test_line_ends_stay_as_they_are() -> None:
    assert "".join(read_text(io.BytesIO(b"a\r\nb\rc\n"), source="here")) == "a\r\nb\rc\n"


def test_an_empty_file_has_no_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.touch()
    assert ids_of(tokenizer, file) == []
    assert list(read_text(io.BytesIO(b""), source="here")) == []


def test_spans_cover_the_file_in_blocks_of_about_the_size_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(b"some words " * 100_000)
    found = list(spans(file, 50_000))
    assert [start for start, _ in found] == [0, *(end for _, end in found[:-1])]
    assert found[-1][1] == file.stat().st_size
    assert all(40_000 < end - start < 60_000 for start, end in found[:-1])
