"""Keeping gradients within float16: the loss is multiplied, the gradient divided again (Micikevicius et al. 2018).

Below 6e-8 float16 knows only zero, and above 65,504 only infinity. So the factor falls by half when a gradient
overflows, which skips that step, and doubles after many steps that did not. It is a power of two: where nothing
overflows and nothing vanishes, the gradient is the same to the bit.
"""

from dataclasses import dataclass

_FIRST, _LARGEST = 2.0**16, 2.0**24
_PATIENCE_STEPS = 1000


@dataclass(kw_only=True, slots=True)
class LossScale:
    """The factor of the loss, which changes from step to step.

    Attributes:
        factor: at present.
        good_steps: since it last changed.
        fixed: it never changes: the products are in float32 or bfloat16, whose range is wide enough.
    """

    factor: float = 1.0
    good_steps: int = 0
    fixed: bool = True

    @classmethod
    def of_float16(cls) -> "LossScale":
        """As a run in float16 begins."""
        return cls(factor=_FIRST, fixed=False)

    @property
    def can_fall(self) -> bool:
        """Whether a gradient that is not finite may be the factor's fault."""
        return not self.fixed and self.factor > 1.0

    def adjust(self, *, finite: bool) -> None:
        """Note how a step went."""
        if self.fixed:
            return
        self.good_steps += 1
        if not finite:
            self.factor, self.good_steps = max(1.0, self.factor / 2), 0
        elif self.good_steps == _PATIENCE_STEPS:
            self.factor, self.good_steps = min(_LARGEST, self.factor * 2), 0
