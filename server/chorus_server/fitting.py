"""Recursive least squares for up to three coefficients that cannot be negative.

In information form: A = sum of forget^age * z z', c = sum of forget^age * z, both beside a prior that is never
forgotten, so that a coefficient nothing was observed of keeps its prior. Errors are relative to what was observed,
because a step of 5 ms off by 1 ms matters more than one of 100 ms (Haykin, Adaptive Filter Theory, chapter on RLS).

Every finished request is learnt from, so the sums are written out: loops over three numbers cost five times as much.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple, TypeAlias

FORGET = 0.98
PRIOR_WEIGHT = 0.5
"""The prior counts as much as so many observations."""

SETTLED_AFTER = 8
OUTLIER_RATIO = 1.3
"""A settled fit sets aside what is further off than this, e.g. of a PC that throttles or has just woken ..."""

CHANGED_AFTER = 5
"""... until so many in a row are off in the same direction: then the machine has changed, and learning begins anew."""

Three: TypeAlias = tuple[float, float, float]
"""One number for each coefficient; 0 for one that is not there."""


class Fit:
    """y = sum of coefficient * x. `shape` gives the coefficients' expected proportions, observations their scale."""

    def __init__(self, shape: Three) -> None:
        self._shape = shape
        self._start()
        self.set_aside = 0
        self.coefficients: Three | None = None
        """None before the first observation."""

    def _start(self) -> None:
        self._a = _Symmetric(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        self._c: Three = (0.0, 0.0, 0.0)
        self._scale: float | None = None
        self._off_in_a_row = 0
        self.observations = 0

    def predict(self, x: Three) -> float | None:
        return None if self.coefficients is None else _product(self.coefficients, x)

    def observe(self, x: Three, y: float, *, weight: float = 1.0) -> bool:
        """Learn from one pair of positive numbers; False when it was set aside as an outlier."""
        expected = self.predict(x)
        if expected is not None and self.observations >= SETTLED_AFTER and self._is_off(y / expected):
            self.set_aside += 1
            return False
        if self._scale is None:
            self._scale = y / _product(self._shape, x)
        p, q, r = (one * self._scale * value / y for one, value in zip(self._shape, x, strict=True))
        pp, pq, pr, qq, qr, rr = self._a
        u, v, w = weight * p, weight * q, weight * r
        self._a = _Symmetric(
            FORGET * pp + u * p,
            FORGET * pq + u * q,
            FORGET * pr + u * r,
            FORGET * qq + v * q,
            FORGET * qr + v * r,
            FORGET * rr + w * r,
        )
        first, second, third = self._c
        self._c = (FORGET * first + u, FORGET * second + v, FORGET * third + w)
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
            least = 1e-6 * sum(self.coefficients)
            first, second, third = self.coefficients
            self._shape = (max(first, least), max(second, least), max(third, least))
        self._start()
        return False

    def _solve(self, scale: float) -> None:
        """Coefficients in units of shape * scale; those that come out negative are held at 0 and the rest solved."""
        held: set[int] = set()
        while True:
            found = _solved(self._a, self._c, held)
            negative = {place for place, value in enumerate(found) if value < 0}
            if not negative:
                break
            held |= negative
        (p, q, r), (u, v, w) = found, self._shape
        self.coefficients = (p * u * scale, q * v * scale, r * w * scale)


class _Symmetric(NamedTuple):
    """The upper half of a symmetric matrix."""

    pp: float
    pq: float
    pr: float
    qq: float
    qr: float
    rr: float


def _product(left: Three, right: Three) -> float:
    return left[0] * right[0] + left[1] * right[1] + left[2] * right[2]


def _solved(a: _Symmetric, c: Three, held: Container[int]) -> Three:
    """With the prior, which makes the matrix positive definite: so a = L D L' needs no pivots. `held` come out as 0."""
    pp, pq, pr, qq, qr, rr = a
    first, second, third = (one + PRIOR_WEIGHT for one in c)
    if 0 in held:
        pp, pq, pr, first = 1.0, 0.0, 0.0, 0.0
    if 1 in held:
        pq, qq, qr, second = 0.0, 1.0, 0.0, 0.0
    if 2 in held:
        pr, qr, rr, third = 0.0, 0.0, 1.0, 0.0
    pp += PRIOR_WEIGHT
    lq, lr = pq / pp, pr / pp
    qq += PRIOR_WEIGHT - lq * pq
    below = qr - lq * pr
    ls = below / qq
    rr += PRIOR_WEIGHT - lr * pr - ls * below
    second -= lq * first
    r = (third - lr * first - ls * second) / rr
    q = second / qq - ls * r
    return first / pp - lq * q - lr * r, q, r
