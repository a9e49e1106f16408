"""Confidence intervals over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from scipy import stats

__all__ = ["Interval", "fieller", "in_columns", "t_interval"]

Values = Sequence[float] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval; written without it where that has no width.

    Args:
        mean: The mean; infinite if all that is known of it is that it lies above or below the other end.
        low: Lower end.
        high: Upper end; equal to the mean if there is one value only.
        n: Number of seeds that it is over.

    Example:
        >>> print(Interval(0.1, 0.05, math.inf), Interval(math.inf, 0.05, math.inf), sep=", ")
        +10.0 [+5.0, +inf], > +5.0
    """

    mean: float
    low: float
    high: float
    n: int = 1

    def __str__(self) -> str:
        return self.written("+.1f", scale=100)

    def written(self, form: str, *, scale: float = 1.0) -> str:
        """Write mean and interval.

        Args:
            form: Format of each number.
            scale: What each is multiplied by.

        Returns:
            The text, the interval in brackets.
        """
        mean, low, high = (f"{scale * value:{form}}" for value in (self.mean, self.low, self.high))
        if math.isinf(self.mean):
            return f"> {low}" if self.mean > 0 else f"< {high}"
        return mean if self.low == self.high else f"{mean} [{low}, {high}]"


def in_columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    """Return an interval, if there is one, as columns of a table: `<name>_mean` and so on."""
    return {f"{name}_{field.name}": getattr(interval, field.name, None) for field in fields(Interval)}


def t_interval(values: Values) -> Interval:
    """Return a mean with its t interval.

    Args:
        values: One per seed, at least one, `(n,)`.

    Returns:
        The interval; of width 0 where values do not vary.

    Example:
        >>> print(t_interval([0.1, 0.2, 0.3]))
        +20.0 [-4.8, +44.8]
    """
    mean = float(np.mean(values))
    if len(values) == 1 or np.ptp(values) < 1e-12:
        return Interval(mean, mean, mean, len(values))
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=stats.sem(values))
    return Interval(mean, float(low), float(high), len(values))


def fieller(numerators: Values, denominators: Values) -> Interval | None:
    r"""Return a ratio of means with the interval of Fieller (1954), which knows that both vary together.

    It holds every ratio $\rho$ for which the mean of $a_i - \rho b_i$ cannot be told from 0.

    Args:
        numerators: One per seed, `(n,)`.
        denominators: Of the same seeds, `(n,)`.

    Returns:
        The interval; None for fewer than two seeds, or where the mean denominator cannot be told from 0 or
        is below it.

    Example:
        >>> ratio = fieller([1.0, 1.1, 1.2], [2.0, 2.2, 2.4])
        >>> round(ratio.mean, 9), round(ratio.low, 9), round(ratio.high, 9)
        (0.5, 0.5, 0.5)
    """
    n = len(numerators)
    if n < 2 or t_interval(denominators).low <= 0:
        return None
    a, b = float(np.mean(numerators)), float(np.mean(denominators))
    (aa, ab), (_, bb) = stats.t.ppf(0.975, n - 1) ** 2 * np.cov(numerators, denominators) / n
    # The ends solve (a - x b)^2 = t^2 var(a - x b), a quadratic equation in x.
    half = np.sqrt(max((a * b - ab) ** 2 - (b * b - bb) * (a * a - aa), 0.0))
    low, high = (a * b - ab - half) / (b * b - bb), (a * b - ab + half) / (b * b - bb)
    return Interval(a / b, float(low), float(high), n)
