"""Recursive least squares for a handful of coefficients that cannot be negative.

In information form: A = sum of forget^age * z z', c = sum of forget^age * z, both beside a prior that is never
forgotten, so that a coefficient nothing was observed of keeps its prior. Errors are relative to what was observed,
because a step of 5 ms off by 1 ms matters more than one of 100 ms (Haykin, Adaptive Filter Theory, chapter on RLS).
"""

from __future__ import annotations

from collections.abc import Sequence

FORGET = 0.98
PRIOR_WEIGHT = 0.5
"""The prior counts as much as so many observations."""

SETTLED_AFTER = 8
OUTLIER_RATIO = 1.3
"""A settled fit sets aside what is further off than this, e.g. of a PC that throttles or has just woken ..."""

CHANGED_AFTER = 5
"""... until so many in a row are off in the same direction: then the machine has changed, and learning begins anew."""


class Fit:
    """y = sum of coefficient * x. `shape` gives the coefficients' expected proportions, observations their scale."""

    def __init__(self, shape: Sequence[float]) -> None:
        self._shape = tuple(shape)
        self._start()
        self.set_aside = 0
        self.coefficients: tuple[float, ...] | None = None
        """None before the first observation."""

    def _start(self) -> None:
        size = len(self._shape)
        self._a = [[0.0] * size for _ in range(size)]
        self._c = [0.0] * size
        self._scale: float | None = None
        self._off_in_a_row = 0
        self.observations = 0

    def predict(self, x: Sequence[float]) -> float | None:
        if self.coefficients is None:
            return None
        return sum(one * value for one, value in zip(self.coefficients, x, strict=True))

    def observe(self, x: Sequence[float], y: float, *, weight: float = 1.0) -> bool:
        """Learn from one pair of positive numbers; False when it was set aside as an outlier."""
        expected = self.predict(x)
        if expected is not None and self.observations >= SETTLED_AFTER and self._is_off(y / expected):
            self.set_aside += 1
            return False
        shape_y = sum(one * value for one, value in zip(self._shape, x, strict=True))
        if self._scale is None:
            self._scale = y / shape_y
        z = [one * self._scale * value / y for one, value in zip(self._shape, x, strict=True)]
        for row, left in enumerate(z):
            self._c[row] = FORGET * self._c[row] + weight * left
            for column, right in enumerate(z):
                self._a[row][column] = FORGET * self._a[row][column] + weight * left * right
        self.observations += 1
        self._solve(self._scale)
        return True

    def _is_off(self, ratio: float) -> bool:
        """Whether this observation is to be set aside; takes note of a change."""
        side = 1 if ratio > OUTLIER_RATIO else -1 if ratio < 1 / OUTLIER_RATIO else 0
        if side == 0:
            self._off_in_a_row = 0
            return False
        same_side = self._off_in_a_row * side > 0
        self._off_in_a_row = self._off_in_a_row + side if same_side else side
        if abs(self._off_in_a_row) < CHANGED_AFTER:
            return True
        if self.coefficients is not None:
            # How the parts compare is kept: a PC that runs at half its clock is slower in all of them.
            total = sum(self.coefficients)
            self._shape = tuple(max(one, 1e-6 * total) for one in self.coefficients)
        self._start()
        return False

    def _solve(self, scale: float) -> None:
        """Coefficients in units of shape * scale; those that come out negative are held at 0 and the rest solved."""
        held: set[int] = set()
        size = len(self._shape)
        solution = [0.0] * size
        while len(held) < size:
            free = [one for one in range(size) if one not in held]
            a = [[self._a[row][column] + (PRIOR_WEIGHT * (row == column)) for column in free] for row in free]
            found = _solved(a, [self._c[row] + PRIOR_WEIGHT for row in free])
            negative = [one for one, value in zip(free, found, strict=True) if value < 0]
            solution = [0.0] * size
            for one, value in zip(free, found, strict=True):
                solution[one] = value
            if not negative:
                break
            held.update(negative)
        self.coefficients = tuple(
            max(0.0, value) * one * scale for value, one in zip(solution, self._shape, strict=True)
        )


def _solved(a: list[list[float]], c: list[float]) -> list[float]:
    """Gaussian elimination with pivoting; `a` is positive definite, because of the prior."""
    size = len(c)
    rows = [[*row, value] for row, value in zip(a, c, strict=True)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(rows[row][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for row in range(column + 1, size):
            factor = rows[row][column] / rows[column][column]
            for place in range(column, size + 1):
                rows[row][place] -= factor * rows[column][place]
    found = [0.0] * size
    for row in reversed(range(size)):
        rest = sum(rows[row][column] * found[column] for column in range(row + 1, size))
        found[row] = (rows[row][size] - rest) / rows[row][row]
    return found
