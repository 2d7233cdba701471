"""A text's ids, the backend slot that holds its keys and values, and the window that slides over it."""

from collections.abc import Sequence

from gpt2.backends.seam import Backend

CHUNK_TOKENS = 128  # of one text, per step


class SlotSequence:
    """Ids, of which the model sees a window of at most `n_positions`.

    When the ids outgrow the window, it restarts at the last `n_positions // 2` of them (at least one), which are
    computed again. Its start depends only on the number of ids, never on how they were computed.

    Args:
        backend: owns the slot.
        ids: the text.
        slot: of the backend; ownership passes here. None makes a new one.
        computed: how many of the first ids that slot holds.
    """

    def __init__(self, backend: Backend, ids: Sequence[int], slot: int | None = None, *, computed: int = 0) -> None:
        self.ids = list(ids)
        self._backend = backend
        self._slot = backend.new() if slot is None else slot
        self._start = 0  # of the window, in ids
        self._computed = computed  # ids from there that the slot holds

    @property
    def slot(self) -> int:
        """The backend's number for it."""
        return self._slot

    @property
    def pending(self) -> int:
        """How many ids the slot does not hold yet, after sliding the window if due."""
        n_positions = self._backend.config.n_positions
        if len(self.ids) - self._start > n_positions:
            self._backend.truncate(self._slot, 0)
            self._start = len(self.ids) - max(1, n_positions // 2)
            self._computed = 0
        return len(self.ids) - self._start - self._computed

    @property
    def computed(self) -> int:
        """How many ids of the window the slot holds."""
        return self._computed

    @property
    def room(self) -> int:
        """How many more ids fit before the window slides."""
        return self._backend.config.n_positions - (len(self.ids) - self._start)

    @property
    def whole(self) -> Sequence[int]:
        """The text's first ids that the slot holds; empty once the window has slid."""
        return self.ids[: self._computed] if self._start == 0 else ()

    def next_ids(self, n: int) -> list[int]:
        """The first `n` pending ids."""
        first = self._start + self._computed
        return self.ids[first : first + n]

    def advance(self, n: int) -> None:
        """Record that the backend appended `n` pending ids to the slot."""
        self._computed += n

    def settle(self, n: int) -> None:
        """Of the draft tokens in the slot, the first `n` are now ids; drop the others."""
        self._computed += n
        self.restore()

    def restore(self) -> None:
        """Roll the slot back after a failed step."""
        if self._backend.length(self._slot) != self._computed:
            self._backend.truncate(self._slot, self._computed)

    def follow(self, ids: Sequence[int], n_same: int) -> None:
        """Change the text to `ids`; the first `n_same` are known to be unchanged, and more may be."""
        while n_same < min(len(ids), len(self.ids)) and ids[n_same] == self.ids[n_same]:
            n_same += 1
        self.ids[n_same:] = ids[n_same:]
        self._computed = min(self._computed, min(n_same, len(ids) - 1) - self._start)
        assert self._computed >= 0, "the window slid over what was guessed"
        self.restore()

    def fork(self) -> "SlotSequence":
        """The same text in its own slot."""
        twin = SlotSequence(self._backend, self.ids, self._backend.fork(self._slot))
        twin._start, twin._computed = self._start, self._computed
        return twin

    def free(self) -> None:
        """Free the slot; afterwards only `ids` is valid. May be called again."""
        if self._slot >= 0:
            try:
                self._backend.free(self._slot)
            finally:  # an interruption must not lead to a second free
                self._slot = -1

    def hand_over(self) -> int:
        """The slot, now owned by the caller."""
        slot, self._slot = self._slot, -1
        return slot
