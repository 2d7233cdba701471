"""A repository on Hugging Face's hub, or a mirror of it: which files of a model it has, and where they are kept here.

The layout is that of Hugging Face's own libraries, so that each finds what the other has fetched: content under its
hash in `blobs/`, names as links to it in `snapshots/REVISION/`, the revision in `refs/main` (huggingface_hub's guide
"Understand caching"). If links cannot be made (Windows without the right), the content is in the snapshot.

HF_ENDPOINT (a mirror), HF_HUB_OFFLINE, HF_TOKEN and the variables of the cache are respected.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gpt2.errors import DownloadError, FormatError
from gpt2.files import make_folder, parse_json, remove_intruder, write_text
from gpt2.hub.transfer import RemoteFile, read_url

ENDPOINT = "https://huggingface.co"

# Files besides the weights; none holds code, and no name has a folder.
_SMALL = (
    "config.json",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "README.md",
    "LICENSE",
)
_WHOLE, _INDEX, _PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_INDEX_LIMIT_BYTES = 16 << 20
_SIZE_LIMIT = 1 << 50
_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


def headers() -> Mapping[str, str]:
    """The user's token for the hub, if set."""
    token = os.environ.get("HF_TOKEN", "").strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


def endpoint() -> str:
    """The hub's address, or its mirror's."""
    return os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or ENDPOINT


def list_files(hub_id: str, *, allow_pickle: bool = False) -> tuple[str, list[RemoteFile]]:
    """The revision of a repository and the files of the model in it, `config.json` first.

    Raises:
        DownloadError: it cannot be reached, does not exist, or holds no model that we can read.
    """
    address = f"{endpoint()}/api/models/{hub_id}/revision/main?blobs=true"
    try:
        raw: Any = parse_json(read_url(address, limit_bytes=_INDEX_LIMIT_BYTES, headers=headers()), address)
        revision = raw["sha"]
        found = {str(entry["rfilename"]): entry for entry in raw["siblings"]}
    except (FormatError, KeyError, TypeError) as error:
        raise DownloadError(f"{address} does not describe a repository. Check HF_ENDPOINT.") from error
    if not isinstance(revision, str) or not _SHA1.fullmatch(revision):
        raise DownloadError(f"{address} names no revision. Check HF_ENDPOINT.")
    names = [name for name in _SMALL if name in found]
    names += _weights(list(found), hub_id, allow_pickle=allow_pickle)
    return revision, [_described(hub_id, revision, name, found[name], address) for name in names]


def _weights(names: Sequence[str], hub_id: str, *, allow_pickle: bool) -> list[str]:
    if "config.json" not in names:
        what = "GGUF files, which it does not choose from" if any(n.endswith(".gguf") for n in names) else "no model"
        raise DownloadError(
            f"{hub_id} cannot be downloaded: it has no config.json, so it holds {what}. Fetch the file that you want "
            f"with your browser, and name its path."
        )
    if _WHOLE in names:
        return [_WHOLE]
    if _INDEX in names:
        return [_INDEX, *sorted(name for name in names if _SHARD.fullmatch(name))]
    if _PICKLE not in names:
        raise DownloadError(f"{hub_id} cannot be downloaded: it has no {_WHOLE} and no {_PICKLE}. Check the name.")
    if not allow_pickle:
        raise DownloadError(
            f"{hub_id} holds its weights only as a pickle, {_PICKLE}. Give --allow-pickle (allow_pickle=True) to fetch "
            f"it all the same: it is read without running anything that is in it."
        )
    return [_PICKLE]


def _described(hub_id: str, revision: str, name: str, entry: Any, address: str) -> RemoteFile:
    said = entry.get("lfs")
    lfs: Any = said if isinstance(said, dict) else {}
    sha256, git_sha1 = lfs.get("sha256"), None if lfs else entry.get("blobId")
    size = lfs.get("size", entry.get("size"))
    sound = (
        type(size) is int
        and 0 <= size < _SIZE_LIMIT
        and (sha256 is None or (isinstance(sha256, str) and _SHA256.fullmatch(sha256)))
        and (git_sha1 is None or (isinstance(git_sha1, str) and _SHA1.fullmatch(git_sha1)))
        and (sha256 or git_sha1)
    )
    if not sound:
        raise DownloadError(
            f"{address} does not say the length and hash of {name}. Check HF_ENDPOINT, or another mirror."
        )
    url = f"{endpoint()}/{hub_id}/resolve/{revision}/{quote(name)}"
    return RemoteFile(name=name, url=url, bytes=size, sha256=sha256, git_sha1=git_sha1)


def blob(repository: Path, file: RemoteFile) -> Path:
    """Where the content of a file is kept."""
    hash = file.sha256 or file.git_sha1
    assert hash is not None
    return repository / "blobs" / hash


def is_here(repository: Path, revision: str, file: RemoteFile) -> bool:
    """Whether a file of a revision has arrived whole."""
    try:
        return (repository / "snapshots" / revision / file.name).stat().st_size == file.bytes
    except OSError:
        return False


def name_blob(repository: Path, revision: str, file: RemoteFile) -> None:
    """Give a file's content its name in the snapshot."""
    content, name = blob(repository, file), repository / "snapshots" / revision / file.name
    make_folder(name.parent)
    name.unlink(missing_ok=True)
    try:
        name.symlink_to(Path("..", "..", "blobs", content.name))
    except OSError:
        content.replace(name)


def name_revision(repository: Path, revision: str) -> None:
    """Make a completely fetched revision the one that the repository's name resolves to."""
    reference = repository / "refs" / "main"
    remove_intruder(reference)
    write_text(reference, revision)
