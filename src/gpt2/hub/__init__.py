"""Finding models on this machine: inside the package, in our cache, in Hugging Face's, or at a path.

Nothing here opens a connection.
"""

from gpt2.hub.local import PUBLISHER, LocalModel, local_models, locate
from gpt2.hub.places import cache_folder, huggingface_cache

__all__ = ["PUBLISHER", "LocalModel", "cache_folder", "huggingface_cache", "local_models", "locate"]
