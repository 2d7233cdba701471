"""Where models are on this machine, by name.

- inside the package: `gpt2/models/NAME`
- our cache: `CACHE/gpt2/models/NAME`, a hub id with `--` for its slash
- Hugging Face's cache: `models--ORG--NAME/snapshots/REVISION`, the revision read from `refs/main`
"""

import os
import re
from pathlib import Path

from gpt2.files import cache_folder, home_folder

PUBLISHER = "openai-community"
HUB_ID = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", re.ASCII)

# importlib.resources would cost 30 ms at each start
EMBEDDED_FOLDER = Path(__file__).resolve().parent.parent / "models"

_REVISION = re.compile(r"[0-9A-Za-z._-]{1,80}")


def huggingface_cache() -> Path:
    """The folder in which Hugging Face's libraries keep repositories (HF_HUB_CACHE, HF_HOME, or their default)."""
    # as in their code: Path's own `expanduser` fails if no user has the name after the ~
    if chosen := os.environ.get("HF_HUB_CACHE"):
        return Path(os.path.expanduser(chosen))  # noqa: PTH111
    if home := os.environ.get("HF_HOME"):
        return Path(os.path.expanduser(home)) / "hub"  # noqa: PTH111
    return Path(os.environ.get("XDG_CACHE_HOME") or home_folder() / ".cache") / "huggingface" / "hub"


def in_our_cache(name: str) -> Path:
    """Where our cache keeps the model of this name or hub id."""
    return cache_folder() / "models" / name.replace("/", "--")


def huggingface_repository(hub_id: str) -> Path:
    """Where Hugging Face's cache keeps a repository, with all its revisions."""
    return huggingface_cache() / f"models--{hub_id.replace('/', '--')}"


def in_huggingface_cache(hub_id: str) -> Path | None:
    """The snapshot of a repository's main revision, if there is one."""
    return snapshot(huggingface_repository(hub_id))


def snapshot(repository: Path) -> Path | None:
    """The main revision of one repository in Hugging Face's cache."""
    reference = repository / "refs" / "main"
    if not reference.is_file():  # a pipe would keep every command waiting
        return None
    try:
        with reference.open("rb") as file:
            revision = file.read(100).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    if not _REVISION.fullmatch(revision) or revision in (".", ".."):
        return None
    return repository / "snapshots" / revision


def holds_model(folder: Path) -> bool:
    """Whether a folder has a configuration and weights; only reading them tells whether they are sound."""
    try:
        names = [file.name for file in folder.iterdir()]
    except OSError:
        return False
    if "config.json" in names:
        return any(name.endswith((".safetensors", ".bin")) for name in names)
    return "hparams.json" in names and "model.ckpt.index" in names
