"""The output head of a GPT-2: from any depth of the residual stream to next-token results.

A backend applies it only to the last depth. The logit lens (nostalgebraist 2020, "interpreting GPT: the logit
lens") applies it to earlier depths, to see what the model would predict if it stopped there.
"""

from gpt2.backends.readout import read_out
from gpt2.backends.seam import Floats, Result, Source, Want
from gpt2.model import reference


class Head:
    """The last layer norm and the tied embedding, in NumPy and fp32.

    Args:
        weights: the norm's two vectors and the token embedding are read at once.
    """

    def __init__(self, weights: Source) -> None:
        self._config = weights.config
        self._g_D, self._b_D = weights.float32("ln_f.g"), weights.float32("ln_f.b")
        # a view if the file holds fp32: the largest matrix is not copied
        self._wte_VD = weights.float32("wte")

    def normed(self, residual_RD: Floats) -> Floats:
        """Rows of the residual stream after the last layer norm."""
        return reference.layer_norm(residual_RD, self._g_D, self._b_D, self._config.layer_norm_epsilon)

    def read(self, residual_RD: Floats, want: Want) -> Result:
        """Everything `want` asks for except its trace, from residual rows of any depth.

        Raises:
            BackendError: a logit is not a finite number, so the weights are damaged.
        """
        return read_out(want, self.normed(residual_RD), lambda x_ND: x_ND @ self._wte_VD.T, self._config.vocab_size)
