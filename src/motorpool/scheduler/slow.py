"""Which tasks run far longer than others of their function."""

from bisect import insort

# A task is named when it has run so many times as long as the median of its
# function, and so many seconds at the least.
FACTOR = 10
LEAST_SECONDS = 60.0
# So many long tasks of a function are remembered; then every second one is.
MOST_LONG = 512


class Lengths:
    """How long the tasks of a function take, as far as that matters here.

    Where the median is below a tenth of `LEAST_SECONDS` it does not matter what
    it is, so short tasks are merely counted.
    """

    __slots__ = ("_long", "items")

    def __init__(self) -> None:
        self.items = 0
        self._long: list[float] = []

    def add(self, items: int, mean: float) -> None:
        """Learn from `items` that took `mean` seconds each."""
        self.items += items
        if mean * FACTOR >= LEAST_SECONDS:
            for _ in range(min(items, MOST_LONG)):
                insort(self._long, mean)
            if len(self._long) > MOST_LONG:
                self._long = self._long[::2]
                self.items //= 2

    def patience(self) -> float:
        """Return the seconds after which a task is worth a word."""
        long = len(self._long)
        at = self.items // 2 - (self.items - long)
        median = self._long[at] if 0 <= at < long else 0.0
        return max(LEAST_SECONDS, FACTOR * median)
