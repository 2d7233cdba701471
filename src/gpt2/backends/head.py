"""The end of a GPT-2 by itself: from any depth of the residual stream to what was wanted of the next token.

A backend applies it to the last depth alone. The logit lens (nostalgebraist 2020, "interpreting GPT: the logit
lens") applies it to the others, and asks what the model would say if it stopped there.
"""

from gpt2.backends.readout import read_out
from gpt2.backends.seam import Floats, Result, Source, Want
from gpt2.model import reference


class Head:
    """The last layer norm and the tied embedding, in NumPy and fp32.

    Args:
        weights: two vectors and the token embedding are read from it, at once.
    """

    def __init__(self, weights: Source) -> None:
        self._config = weights.config
        self._g_D, self._b_D = weights.float32("ln_f.g"), weights.float32("ln_f.b")
        # where the file has fp32, this is a view of it: no copy of the largest matrix
        self._wte_VD = weights.float32("wte")

    def normed(self, residual_RD: Floats) -> Floats:
        """Rows of the residual stream after the last layer norm."""
        return reference.layer_norm(residual_RD, self._g_D, self._b_D, self._config.layer_norm_epsilon)

    def read(self, residual_RD: Floats, want: Want) -> Result:
        """What `want` asks of rows of the residual stream, at whatever depth they were traced; not its trace.

        Raises:
            BackendError: a logit is not a finite number, so the weights are damaged.
        """
        return read_out(want, self.normed(residual_RD), lambda x_ND: x_ND @ self._wte_VD.T, self._config.vocab_size)
