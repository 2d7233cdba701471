"""OpenAI's files of 2019, from OpenAI's own store: the TensorFlow checkpoint, its settings and its vocabulary.

Addresses and names are from openai/gpt-2, download_model.py. The store publishes no hashes. Known from elsewhere are
the length of the weights (four bytes a parameter), the hashes of the vocabulary (openai/tiktoken, openai_public.py),
and the checksum of every array, which is in the index and is verified whenever the model is opened.
"""

from gpt2.config import PUBLISHED
from gpt2.hub.transfer import RemoteFile

STORE = "https://openaipublic.blob.core.windows.net/gpt-2/models"

_THEIR_NAME = {"gpt2": "124M", "gpt2-medium": "355M", "gpt2-large": "774M", "gpt2-xl": "1558M"}
_SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
_WEIGHTS = "model.ckpt.data-00000-of-00001"
_SMALL = ("hparams.json", "checkpoint", "encoder.json", "vocab.bpe", "model.ckpt.index")


def list_files(name: str) -> list[RemoteFile]:
    """The files of a published model without the graph, `model.ckpt.meta`, which nothing here needs."""
    return [
        RemoteFile(
            name=file,
            url=f"{STORE}/{_THEIR_NAME[name]}/{file}",
            bytes=4 * PUBLISHED[name].parameters if file == _WEIGHTS else None,
            sha256=_SHA256.get(file),
        )
        for file in (*_SMALL, _WEIGHTS)
    ]
