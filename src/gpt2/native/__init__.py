"""The CPU engine: C++ kernels behind a C interface of about a dozen functions, called through ctypes.

It is built with the package if there is a C++ compiler. `Library.load` finds it, or says why it is unavailable and
how to get it; importing this package loads nothing. `forms` defines the weight forms in NumPy, and the kernels equal
it exactly.
"""

from gpt2.native.interface import Wanted
from gpt2.native.library import Engine, Library, Matrix, choose_level

__all__ = ["Engine", "Library", "Matrix", "Wanted", "choose_level"]
