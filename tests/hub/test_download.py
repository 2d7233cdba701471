"""Downloads from a server on loopback that cuts connections, lies about lengths, redirects and serves wrong bytes."""

import errno
import hashlib
import os
import shutil
import socket
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

import gpt2
from gpt2 import checkpoint, hub
from gpt2.errors import DownloadError, FolderInUseError, ModelNotFoundError
from gpt2.files import lock
from gpt2.hub import fetching, original, places
from gpt2.hub.transfer import ATTEMPTS, RemoteFile, fetch, read_url

from .conftest import HUB_ID, REVISION, FakeHub

WEIGHTS = "model.safetensors"


def no_pause(seconds: float) -> None:
    pass


def download(name: str = HUB_ID, **settings: Any) -> Path:
    return hub.download(hub.plan(name, **settings), pause=no_pause)


@pytest.fixture
def published(fake_hub: FakeHub, tiny_files: dict[str, bytes]) -> FakeHub:
    fake_hub.publish(HUB_ID, tiny_files)
    return fake_hub


def repository(cache: Path) -> Path:
    return cache / "huggingface" / "hub" / "models--org--tiny"


def tree(folder: Path) -> dict[str, bytes | str]:
    """Every file and link below a folder."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path) if path.is_symlink() else path.read_bytes()  # noqa: PTH115
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
        and path.parent.name != "trees"  # their list of a revision's files, which they can do without
    }


def test_a_model_arrives_whole_and_is_found_by_its_name(
    published: FakeHub, clean_caches: Path, tiny_files: dict[str, bytes], tiny_folder: Path
) -> None:
    with pytest.raises(ModelNotFoundError, match="`gpt2 download org/tiny` fetches it"):
        hub.locate(HUB_ID)
    plan = hub.plan(HUB_ID)
    assert plan.total_bytes == plan.missing_bytes == sum(map(len, tiny_files.values()))
    arrived: list[int] = []
    folder = hub.download(plan, progress=arrived.append)
    assert sum(arrived) == plan.total_bytes
    assert hub.locate(HUB_ID) == folder == repository(clean_caches) / "snapshots" / REVISION
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == tiny_files
    with gpt2.load(HUB_ID) as ours, gpt2.load(tiny_folder) as theirs:
        assert ours.generate("Hello", max_tokens=5, seed=1).text == theirs.generate("Hello", max_tokens=5, seed=1).text
    before = len(published.requests(WEIGHTS))
    again = hub.plan(HUB_ID)
    assert again.missing_bytes == 0
    assert hub.download(again) == folder
    assert len(published.requests(WEIGHTS)) == before == 1


def test_the_cache_is_what_hugging_faces_own_client_makes_of_the_same_server(
    published: FakeHub, clean_caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # read once, when another test imported it
    download()
    info = client.HfApi(endpoint=published.address).model_info(HUB_ID, revision="main", files_metadata=True)
    ours = {file.name: (file.bytes, file.sha256 or file.git_sha1) for file in hub.plan(HUB_ID).files}
    theirs = {s.rfilename: (s.size, s.lfs.sha256 if s.lfs else s.blob_id) for s in info.siblings}
    assert ours == theirs
    folder = client.snapshot_download(HUB_ID, cache_dir=tmp_path / "theirs", endpoint=published.address)
    assert Path(folder).name == REVISION
    assert tree(tmp_path / "theirs" / "models--org--tiny") == tree(repository(clean_caches))


def test_transformers_finds_it_offline(published: FakeHub, clean_caches: Path) -> None:
    transformers = pytest.importorskip("transformers")
    download()
    cache = clean_caches / "huggingface" / "hub"
    model = transformers.AutoModelForCausalLM.from_pretrained(HUB_ID, cache_dir=cache, local_files_only=True)
    assert model.config.n_embd == 16


def test_what_breaks_off_goes_on_where_it_stopped(published: FakeHub, tiny_files: dict[str, bytes]) -> None:
    published.cuts[WEIGHTS] = [1000, 0, 5000]
    arrived: list[int] = []
    plan = hub.plan(HUB_ID)
    folder = hub.download(plan, progress=arrived.append, pause=no_pause)
    assert (folder / WEIGHTS).read_bytes() == tiny_files[WEIGHTS]
    assert [headers.get("Range") for headers in published.requests(WEIGHTS)] == [
        None,
        "bytes=1000-",
        "bytes=1000-",
        "bytes=6000-",
    ]
    assert sum(arrived) == plan.total_bytes


def test_a_part_of_an_earlier_run_is_used(published: FakeHub, clean_caches: Path, tiny_files: dict[str, bytes]) -> None:
    published.cuts[WEIGHTS] = [1000] + [0] * ATTEMPTS
    with pytest.raises(DownloadError, match=r"after 5 attempts. What has arrived is kept"):
        download()
    with pytest.raises(ModelNotFoundError):  # half a model has no name
        hub.locate(HUB_ID)
    assert hub.local_models() == [model for model in hub.local_models() if model.origin == "package"]
    plan = hub.plan(HUB_ID)
    assert plan.missing_bytes == len(tiny_files[WEIGHTS]) - 1000
    folder = hub.download(plan)
    assert published.requests(WEIGHTS)[-1]["Range"] == "bytes=1000-"
    assert (folder / WEIGHTS).read_bytes() == tiny_files[WEIGHTS]


def test_an_interruption_keeps_the_part(published: FakeHub, clean_caches: Path, tiny_files: dict[str, bytes]) -> None:
    def interrupt(more: int) -> None:
        if published.requests(WEIGHTS) and more:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.download(hub.plan(HUB_ID), progress=interrupt)
    assert hub.plan(HUB_ID).missing_bytes < len(tiny_files[WEIGHTS])
    assert (download() / WEIGHTS).read_bytes() == tiny_files[WEIGHTS]


def test_a_server_that_cannot_resume_is_asked_for_the_whole(published: FakeHub, tiny_files: dict[str, bytes]) -> None:
    published.ranges = False
    published.cuts[WEIGHTS] = [1000]
    arrived: list[int] = []
    plan = hub.plan(HUB_ID)
    folder = hub.download(plan, progress=arrived.append, pause=no_pause)
    assert (folder / WEIGHTS).read_bytes() == tiny_files[WEIGHTS]
    assert sum(arrived) == plan.total_bytes


def test_a_server_in_trouble_is_asked_again(published: FakeHub, tiny_files: dict[str, bytes]) -> None:
    published.statuses[WEIGHTS] = [503, 429, 502]
    waited: list[float] = []
    folder = hub.download(hub.plan(HUB_ID), pause=waited.append)
    assert (folder / WEIGHTS).read_bytes() == tiny_files[WEIGHTS]
    assert waited == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("asked", "waited"),
    [
        ("20", [20.0, 20.0]),
        ("86400", [300.0, 300.0]),
        ("-5", [1.0, 2.0]),
        ("Wed, 21 Oct 2099 07:28:00 GMT", [1.0, 2.0]),
    ],
)
def test_a_server_is_left_alone_for_as_long_as_it_asks(published: FakeHub, asked: str, waited: list[float]) -> None:
    published.statuses[WEIGHTS], published.retry_after = [429, 503], asked
    pauses: list[float] = []
    hub.download(hub.plan(HUB_ID), pause=pauses.append)
    assert pauses == waited
    published.statuses["main"] = [429]
    when = f"in {int(asked):,} seconds" if asked.isdigit() else "later"
    with pytest.raises(DownloadError, match=f"answered 429. Try again {when}"):
        hub.plan(HUB_ID)


def test_wrong_bytes_are_fetched_once_more_and_then_refused(
    published: FakeHub, clean_caches: Path, tiny_files: dict[str, bytes]
) -> None:
    wrong = bytes(len(tiny_files[WEIGHTS]))
    published.served[WEIGHTS] = [wrong]
    assert (download() / WEIGHTS).read_bytes() == tiny_files[WEIGHTS]
    shutil.rmtree(repository(clean_caches))
    published.served[WEIGHTS] = [wrong, wrong]
    with pytest.raises(DownloadError, match="damaged or is another file: its SHA-256 is"):
        download()
    shutil.rmtree(repository(clean_caches))
    published.served["vocab.json"] = [bytes(len(tiny_files["vocab.json"]))] * 2
    with pytest.raises(DownloadError, match="damaged or is another file: its git hash is"):
        download()
    with pytest.raises(ModelNotFoundError):
        hub.locate(HUB_ID)
    assert not [file for file in (repository(clean_caches) / "blobs").iterdir() if file.read_bytes() == wrong]


@pytest.mark.parametrize("linked", [True, False])
def test_a_file_that_was_damaged_here_is_fetched_again(
    published: FakeHub,
    tiny_files: dict[str, bytes],
    linked: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the right length, so that only its hash tells; `gpt2 verify` says to download it again."""

    def no_link(self: Path, target: Path) -> None:
        raise OSError

    if not linked:
        monkeypatch.setattr(Path, "symlink_to", no_link)
    file = download() / WEIGHTS
    asked = len(published.requests(WEIGHTS))
    download()
    assert len(published.requests(WEIGHTS)) == asked
    file.write_bytes(bytes(len(tiny_files[WEIGHTS])))
    assert (download() / WEIGHTS).read_bytes() == tiny_files[WEIGHTS]
    assert len(published.requests(WEIGHTS)) == asked + 1
    assert f"{WEIGHTS} is here but damaged (its SHA-256 is" in caplog.text


def test_more_bytes_than_announced_are_refused_at_once(
    published: FakeHub, clean_caches: Path, tiny_files: dict[str, bytes]
) -> None:
    published.served[WEIGHTS] = [tiny_files[WEIGHTS] + bytes(100)]
    with pytest.raises(DownloadError, match="sends more than the"):
        download()
    published.announced["vocab.json"] = 10  # then the connection is read no further than 10 bytes
    shutil.rmtree(repository(clean_caches))
    with pytest.raises(DownloadError, match=r"vocab\.json cannot be downloaded from .* after 50 of .* bytes"):
        download()


def test_a_length_that_promises_too_much_is_noticed(published: FakeHub, tiny_files: dict[str, bytes]) -> None:
    published.announced[WEIGHTS] = 10 * len(tiny_files[WEIGHTS])
    assert (download() / WEIGHTS).read_bytes() == tiny_files[WEIGHTS]


def test_redirections_are_followed_and_the_token_stays_at_home(
    published: FakeHub, other_server: FakeHub, monkeypatch: pytest.MonkeyPatch, tiny_files: dict[str, bytes]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cret")
    other_server.files["/elsewhere"] = tiny_files[WEIGHTS]
    published.files["/near"] = tiny_files["vocab.json"]
    published.redirects = {WEIGHTS: f"{other_server.address}/elsewhere", "vocab.json": "/near"}
    assert (download() / WEIGHTS).read_bytes() == tiny_files[WEIGHTS]
    [(_, _, strange)] = other_server.asked
    assert "Authorization" not in strange
    assert all(headers["Authorization"] == "Bearer s3cret" for _, _, headers in published.asked)
    assert len(published.requests("near")) == 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x"])
def test_no_other_kind_of_address_is_followed(published: FakeHub, target: str) -> None:
    published.redirects = {WEIGHTS: target}
    with pytest.raises(DownloadError, match=r"cannot be downloaded"):
        download()


def test_a_circle_of_redirections_ends(published: FakeHub) -> None:
    published.redirects = {WEIGHTS: f"/{HUB_ID}/resolve/{REVISION}/{WEIGHTS}"}
    with pytest.raises(DownloadError, match="answered 307, a redirection that goes in a circle"):
        download()


def test_what_is_no_address_is_refused(published: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    published.redirects = {WEIGHTS: "http://[::1"}
    with pytest.raises(DownloadError, match=r"leads to what is none \(Invalid IPv6 URL\)"):
        download()
    monkeypatch.setenv("HF_ENDPOINT", "http://[::1")
    with pytest.raises(DownloadError, match=r"it is no address.*Check HF_ENDPOINT"):
        hub.plan(HUB_ID)


@pytest.mark.parametrize(("status", "message"), [(401, "set HF_TOKEN"), (404, "Check the name"), (451, "answered 451")])
def test_a_refusal_is_not_repeated(published: FakeHub, status: int, message: str) -> None:
    published.statuses[WEIGHTS] = [status] * 9
    with pytest.raises(DownloadError, match=message):
        download()
    assert len(published.requests(WEIGHTS)) == 1


def test_no_server_at_all(clean_caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:1 cannot be reached"):
        hub.plan("gpt2")
    monkeypatch.setenv("HF_ENDPOINT", "ftp://127.0.0.1")
    with pytest.raises(DownloadError, match="only https and http"):
        hub.plan("gpt2")


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_mode_is_obeyed(published: FakeHub, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(DownloadError, match=f"{variable} is set"):
        download()
    assert published.asked == []


def test_a_full_disk_is_said_before_anything_is_fetched(published: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1 << 20))
    with pytest.raises(DownloadError, match=r"MB are to come and 1 MB are free"):
        download()
    assert published.requests("config.json") == []


@pytest.mark.parametrize(
    ("number", "said", "when"),
    [(errno.ENOSPC, "No space left on device", "there is room"), (errno.EFBIG, "File too large", "files may grow")],
)
def test_a_disk_that_becomes_full_keeps_what_has_arrived(
    number: int,
    said: str,
    when: str,
    published: FakeHub,
    tiny_files: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(handle: int) -> None:
        if published.requests(WEIGHTS):
            raise OSError(number, said)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DownloadError, match=rf"{said}\. What has arrived is kept: run it again when {when}"):
            download()
    assert (download() / WEIGHTS).read_bytes() == tiny_files[WEIGHTS]
    assert len(published.requests(WEIGHTS)) == 1


def test_another_part_than_was_asked_for_is_not_taken_for_the_rest(
    published: FakeHub, tiny_files: dict[str, bytes]
) -> None:
    published.cuts[WEIGHTS] = [1000]
    published.shift = 10
    assert (download() / WEIGHTS).read_bytes() == tiny_files[WEIGHTS]
    assert [headers.get("Range") for headers in published.requests(WEIGHTS)] == [None, "bytes=1000-", None]


def test_another_kind_of_model_is_refused_before_its_weights(published: FakeHub, tiny_files: dict[str, bytes]) -> None:
    published.publish(HUB_ID, tiny_files | {"config.json": b'{"model_type": "bert"}'})
    with pytest.raises(DownloadError, match=r"not a GPT-2: its config\.json says 'bert'"):
        download()
    assert published.requests(WEIGHTS) == []


def test_a_pickle_is_fetched_only_when_asked_for(published: FakeHub, tiny_files: dict[str, bytes]) -> None:
    files = {name: data for name, data in tiny_files.items() if name != WEIGHTS} | {"pytorch_model.bin": b"PK"}
    published.publish(HUB_ID, files)
    with pytest.raises(DownloadError, match="only as a pickle"):
        download()
    assert (download(allow_pickle=True) / "pytorch_model.bin").read_bytes() == b"PK"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": {"sha": "../../main"}}, "names no revision"),
        ({"index": {"siblings": 3}}, "does not describe a repository"),
        ({"index": {"siblings": [{"rfilename": "../../evil", "size": 1}]}}, "no config.json"),
        ({WEIGHTS: {"lfs": {"sha256": "../../x", "size": 1}}}, "does not say the length and hash"),
        ({"config.json": {"blobId": "../x"}}, "does not say the length and hash"),
        ({"config.json": {"size": -1}}, "does not say the length and hash"),
        ({"config.json": {"blobId": int("1" * 40)}}, "does not say the length and hash"),
        ({WEIGHTS: {"lfs": {"sha256": int("1" * 64), "size": 1}}}, "does not say the length and hash"),
        ({"config.json": {"size": 10**400}}, "does not say the length and hash"),
        ({"index": {"siblings": [{"rfilename": 5}]}}, "no config.json"),
        ({"config.json": {"blobId": None}}, "does not say the length and hash"),
        ({"config.json": {"size": True}}, "does not say the length and hash"),
        (
            {"index": {"siblings": [{"rfilename": "config.json", "size": 5, "lfs": "x"}, {"rfilename": WEIGHTS}]}},
            "does not say the length and hash",
        ),
    ],
)
def test_an_index_that_makes_no_sense(
    published: FakeHub, tiny_files: dict[str, bytes], changes: dict[str, Any], message: str
) -> None:
    published.publish(HUB_ID, tiny_files, **changes)
    with pytest.raises(DownloadError, match=message):
        download()


def test_a_length_too_long_for_a_number_is_none(published: FakeHub, tiny_files: dict[str, bytes]) -> None:
    published.announced = {"main": "9" * 5000, WEIGHTS: "9" * 5000}
    assert (download() / WEIGHTS).read_bytes() == tiny_files[WEIGHTS]


def test_a_chunk_of_a_negative_length_is_an_error_of_ours(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for _ in range(1 + ATTEMPTS):
                connection, _ = server.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc")

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        with pytest.raises(DownloadError, match="cannot be reached"):
            read_url(address, limit_bytes=100)
        with pytest.raises(DownloadError, match=f"after {ATTEMPTS} attempts"):
            fetch(RemoteFile(name="x", url=address, bytes=9), tmp_path / "x", part=tmp_path / "part", pause=no_pause)
        thread.join()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_link_or_a_pipe_in_the_cache_does_not_get_our_bytes(
    published: FakeHub, clean_caches: Path, tiny_files: dict[str, bytes], tmp_path: Path, kind: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    weights = hashlib.sha256(tiny_files[WEIGHTS]).hexdigest()
    places = [repository(clean_caches) / "blobs" / f"{weights}.gpt2-part", repository(clean_caches) / "refs" / "main"]
    for place in places:
        place.parent.mkdir(parents=True)
        place.symlink_to(victim) if kind == "link" else os.mkfifo(place)
    assert (download() / WEIGHTS).read_bytes() == tiny_files[WEIGHTS]
    assert victim.read_bytes() == b"precious"
    assert places[1].read_text(encoding="utf-8") == REVISION


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
@pytest.mark.parametrize("name", ["refs/main", f"snapshots/{REVISION}/hparams.json"])
def test_no_command_waits_for_a_pipe_in_the_cache(clean_caches: Path, name: str) -> None:
    place = repository(clean_caches) / name
    place.parent.mkdir(parents=True)
    if name != "refs/main":
        (repository(clean_caches) / "refs").mkdir()
        (repository(clean_caches) / "refs" / "main").write_text(REVISION, encoding="utf-8")
        (place.parent / "config.json").mkdir()
        (place.parent / WEIGHTS).touch()
    os.mkfifo(place)
    assert HUB_ID not in [model.name for model in hub.local_models()]


def test_only_files_of_a_model_are_fetched(published: FakeHub, tiny_files: dict[str, bytes]) -> None:
    published.publish(HUB_ID, tiny_files | {"run.py": b"evil", "../../up.json": b"evil", "flax_model.msgpack": b"x"})
    assert {file.name for file in download().iterdir()} == set(tiny_files)


def test_two_at_once(published: FakeHub, clean_caches: Path) -> None:
    with (
        lock(clean_caches / "huggingface" / "hub" / ".locks" / "models--org--tiny"),
        pytest.raises(FolderInUseError, match="in use by another process"),
    ):
        download()


def test_without_links_the_content_lies_in_the_snapshot(
    published: FakeHub, monkeypatch: pytest.MonkeyPatch, tiny_files: dict[str, bytes]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    folder = download()
    assert not any(file.is_symlink() for file in folder.iterdir())
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == tiny_files
    assert hub.plan(HUB_ID).missing_bytes == 0
    assert checkpoint.read(folder).config.n_embd == 16


@pytest.mark.parametrize("name", ["", "nothing", "a/b/c", "../x", "org/na me", "org/x?y", "https://x/y", "\0", "é/x"])
def test_what_no_model_can_be_called(fake_hub: FakeHub, name: str) -> None:
    with pytest.raises(DownloadError, match=r"neither one of gpt2 \(124M\), |404"):
        hub.plan(name)
    assert all("?" not in path for _, path, _ in fake_hub.asked)


def test_load_downloads_only_when_told(published: FakeHub, tiny_files: dict[str, bytes]) -> None:
    with pytest.raises(ModelNotFoundError):
        gpt2.load(HUB_ID)
    assert published.asked == []
    with gpt2.load(HUB_ID, download=True) as model:
        assert model.config.n_embd == 16
    asked = len(published.asked)
    with gpt2.load(HUB_ID, download=True):
        assert len(published.asked) == asked


@pytest.fixture
def store(fake_hub: FakeHub, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """OpenAI's store, with a model that is smaller than theirs."""
    found = checkpoint.read(tiny_folder)
    checkpoint.write(tmp_path / "bundle", found.weights, found.tokenizer(), format="openai", form="fp32")
    for file in (tmp_path / "bundle").iterdir():
        fake_hub.files[f"/models/124M/{file.name}"] = file.read_bytes()
    monkeypatch.setattr(original, "STORE", f"{fake_hub.address}/models")
    monkeypatch.setitem(original.PUBLISHED, "gpt2", found.config)
    return fake_hub


def test_openais_own_files(store: FakeHub, clean_caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = "model.ckpt.data-00000-of-00001"
    store.cuts[weights] = [5000] + [0] * ATTEMPTS
    with pytest.raises(DownloadError, match="What has arrived is kept"):
        download("gpt2", source="openai")
    with pytest.raises(ModelNotFoundError, match="`gpt2 download gpt2` fetches it"):
        hub.locate("gpt2")
    plan = hub.plan("gpt2", source="openai")
    assert plan.present_bytes == 5000
    folder = hub.download(plan)
    assert store.requests(weights)[-1]["Range"] == "bytes=5000-"
    assert hub.locate("gpt2") == folder == clean_caches / "gpt2" / "models" / "gpt2"
    assert checkpoint.read(folder).format == "openai"
    assert [model.name for model in hub.local_models() if model.origin == "gpt2 cache"] == ["gpt2"]
    assert hub.plan("gpt2", source="openai").missing_bytes == 0
    before = len(store.asked)
    assert download("gpt2", source="openai") == folder
    assert len(store.asked) == before
    (folder / weights).write_bytes(bytes((folder / weights).stat().st_size))
    with pytest.raises(DownloadError, match=rf"of {weights}, its SHA-256 is .* `gpt2 models --remove gpt2` removes it"):
        download("gpt2", source="openai")
    with pytest.raises(DownloadError, match="OpenAI published no 'org/tiny'"):
        download(HUB_ID, source="openai")


def test_the_published_vocabulary_is_checked_by_its_hash(store: FakeHub) -> None:
    store.files["/models/124M/vocab.bpe"] += b"x"
    with pytest.raises(DownloadError, match=r"vocab\.bpe .* its SHA-256 is"):
        download("gpt2", source="openai")


def test_removing(published: FakeHub, clean_caches: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = hub.plan(HUB_ID)
    download()
    assert hub.removable(HUB_ID) == [repository(clean_caches)]
    assert hub.remove(HUB_ID) >= plan.total_bytes
    assert not repository(clean_caches).exists()
    with pytest.raises(ModelNotFoundError):
        hub.remove(HUB_ID)
    for name in ("..", "../..", "", ".", "/", "a/../b", "org/.."):
        assert hub.removable(name) == []
    (tmp_path / "package" / "gpt2-mini").mkdir(parents=True)
    (tmp_path / "package" / "gpt2-mini" / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    (tmp_path / "package" / "gpt2-mini" / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(places, "EMBEDDED_FOLDER", tmp_path / "package")
    with pytest.raises(ModelNotFoundError, match="part of the package"):
        hub.remove("gpt2-mini")


def test_a_file_of_unknown_length_that_has_no_end_is_refused(
    fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2.hub.transfer._UNKNOWN_LIMIT_BYTES", 599)
    fake_hub.files["/x/file"] = bytes(600)
    file = RemoteFile(name="file", url=f"{fake_hub.address}/x/file", bytes=None)
    with pytest.raises(DownloadError, match="more than the 599 bytes that such a file may have"):
        fetch(file, tmp_path / "goal", part=tmp_path / "part", pause=no_pause)


def test_a_file_of_unknown_length(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.files["/x/file"] = b"abcdef" * 100
    fake_hub.cuts["file"] = [100]
    file = RemoteFile(name="file", url=f"{fake_hub.address}/x/file", bytes=None)
    fetch(file, tmp_path / "goal", part=tmp_path / "part", pause=no_pause)
    assert (tmp_path / "goal").read_bytes() == b"abcdef" * 100
    (tmp_path / "part").write_bytes(bytes(10_000))  # of another file: longer than this one
    fetch(file, tmp_path / "goal", part=tmp_path / "part", pause=no_pause)
    assert (tmp_path / "goal").read_bytes() == b"abcdef" * 100
    assert not (tmp_path / "part").exists()
