"""The CPU engine: C++ kernels behind a C interface of about a dozen functions, called through ctypes.

It is built with the package where there is a C++ compiler. `Library.load` finds it, or says why it cannot be
had and how to get it; nothing is loaded by importing this room. `forms` defines in NumPy what the weight forms
mean, and the kernels equal it exactly.
"""

from gpt2.native.interface import Wanted
from gpt2.native.library import Engine, Library, Matrix, choose_level

__all__ = ["Engine", "Library", "Matrix", "Wanted", "choose_level"]
