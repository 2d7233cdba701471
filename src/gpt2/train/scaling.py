"""Loss scaling for float16: multiplies the loss, and divides the gradient again (Micikevicius et al. 2018).

Below 6e-8 float16 has only zero, and above 65,504 only infinity. So the factor halves when a gradient overflows, which
skips that step, and doubles after many steps without overflow. It is a power of two: if nothing overflows or vanishes,
the gradient is the same to the bit.
"""

from dataclasses import dataclass

_FIRST, _LARGEST = 2.0**16, 2.0**24
_PATIENCE_STEPS = 1000


@dataclass(kw_only=True, slots=True)
class LossScale:
    """The factor of the loss, which changes from step to step.

    Attributes:
        factor: its present value.
        good_steps: since it last changed.
        fixed: it never changes, as float32 and bfloat16 products have range enough.
    """

    factor: float = 1.0
    good_steps: int = 0
    fixed: bool = True

    @classmethod
    def of_float16(cls) -> "LossScale":
        """The initial scale of a run in float16."""
        return cls(factor=_FIRST, fixed=False)

    @property
    def can_fall(self) -> bool:
        """Whether the factor may be the cause of a gradient that is not finite."""
        return not self.fixed and self.factor > 1.0

    def adjust(self, *, finite: bool) -> None:
        """Adjust the factor after a step."""
        if self.fixed:
            return
        self.good_steps += 1
        if not finite:
            self.factor, self.good_steps = max(1.0, self.factor / 2), 0
        elif self.good_steps == _PATIENCE_STEPS:
            self.factor, self.good_steps = min(_LARGEST, self.factor * 2), 0
