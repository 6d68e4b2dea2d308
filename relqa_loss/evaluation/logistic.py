"""The five-parameter logistic that maps distances to opinion scores before a linear correlation is taken.

``q(x) = b1 * (1/2 - 1 / (1 + exp(b2 * (x - b3)))) + b4 * x + b5``, the form that H. R. Sheikh, M. F. Sabir and
A. C. Bovik give in "A statistical evaluation of recent full reference image quality assessment algorithms", IEEE
Transactions on Image Processing 15(11), 2006, and that papers call the VQEG mapping.

Given b2 and b3 the other three are linear. The fit looks at a whole grid of slopes and centres, solves the linear part
exactly at each, and polishes the best few by SciPy's Levenberg-Marquardt on all five: no start to be guessed, none to
be unlucky with. Only fitting needs SciPy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .statistics import pearson, require_scipy

Values = NDArray[np.float64]
Parameters = tuple[float, float, float, float, float]

SLOPES = tuple(float(s) for s in np.geomspace(0.3, 30.0, 9))
"""Slopes b2 tried, per standard deviation of the distances: from nearly straight to nearly a step."""

CENTRES = tuple(float(q) for q in np.linspace(0.02, 0.98, 13))
"""Centres b3 tried, as quantiles of the distances."""

STARTS = 4
"""How many of the best grid points are polished."""

POLISH_GAIN, REFIT_GAIN = 1e-10, 1e-7
"""A step that lowers the squared error by less than this share is the last one: of the fit, and of a refit on a
resample, which starts beside its goal."""

MIN_VALUES = 6
"""One more than there are parameters."""


@dataclass(frozen=True)
class LogisticFit:
    """A fitted mapping.

    Attributes:
        parameters: b1 to b5, in the units of the distances and scores.
        pearson: linear correlation of mapped distances and scores.
        rmse: root mean square of what is left, in units of the scores.
        monotone: whether the mapping rises or falls throughout the range of the distances.
        direction: -1 if scores fall as distances rise, 1 if they rise, 0 if it is not monotone.
        linear_term: False if b4 was held at 0.
    """

    parameters: Parameters
    pearson: float
    rmse: float
    monotone: bool
    direction: int
    linear_term: bool


def logistic(x: ArrayLike, parameters: ArrayLike) -> Values:
    """The mapping itself, elementwise."""
    b1, b2, b3, b4, b5 = np.asarray(parameters, dtype=np.float64)
    x = np.asarray(x, dtype=np.float64)
    # 1/2 - 1 / (1 + exp(z)) = tanh(z / 2) / 2, which does not overflow.
    return b1 * 0.5 * np.tanh(b2 * (x - b3) / 2) + b4 * x + b5


def slope(x: ArrayLike, parameters: ArrayLike) -> Values:
    """Derivative of the mapping with respect to x, elementwise."""
    b1, b2, b3, b4, _ = np.asarray(parameters, dtype=np.float64)
    t = np.tanh(b2 * (np.asarray(x, dtype=np.float64) - b3) / 2)
    return b1 * b2 * 0.25 * (1 - t * t) + b4


def direction(parameters: ArrayLike, low: float, high: float) -> int:
    """1 if the mapping rises from ``low`` to ``high``, -1 if it falls, 0 if it turns or is flat throughout.

    The derivative has one extreme, at b3, and tends to b4 on both sides: with the two ends of the range that is where
    its sign has to be looked at.
    """
    parameters = np.asarray(parameters, dtype=np.float64)
    points = [low, high, *([float(parameters[2])] if low < parameters[2] < high else [])]
    slopes = slope(points, parameters)
    # A steep curve underflows to a slope of 0 far from its centre, which is not a turn.
    if (slopes >= 0).all() and (slopes > 0).any():
        return 1
    if (slopes <= 0).all() and (slopes < 0).any():
        return -1
    return 0


def fit_logistic(distances: ArrayLike, scores: ArrayLike, *, linear_term: bool = True) -> LogisticFit:
    """Least-squares fit of the five parameters.

    Args:
        distances: at least ``MIN_VALUES`` finite values, not all equal.
        scores: as many finite values, not all equal.
        linear_term: False holds b4 at 0, which makes every fit monotone.

    Raises:
        ValueError: unequal lengths, too few values, values that are not finite, or a constant side.
        MissingExtra: SciPy is not installed.
    """
    require_scipy()
    x, y = _checked(distances, scores)
    (x_mean, x_scale), (y_mean, y_scale) = (x.mean(), x.std()), (y.mean(), y.std())
    u, v = (x - x_mean) / x_scale, (y - y_mean) / y_scale
    starts = []
    for centre in np.unique(np.quantile(u, CENTRES)):
        for steepness in SLOPES:
            candidate = _linear_part(u, v, steepness, float(centre), linear_term)
            starts.append((_squares(u, v, candidate), candidate))
    starts.sort(key=lambda item: item[0])
    polished = [_polish(u, v, start, linear_term, POLISH_GAIN) for _, start in starts[:STARTS]]
    best = min(polished, key=lambda parameters: _squares(u, v, parameters))
    b1, b2, b3, b4, b5 = best
    native = (
        float(b1 * y_scale),
        float(b2 / x_scale),
        float(b3 * x_scale + x_mean),
        float(b4 * y_scale / x_scale),
        float(y_mean + b5 * y_scale - b4 * y_scale * x_mean / x_scale),
    )
    return describe_fit(x, y, native, linear_term)


def fit_monotone(distances: ArrayLike, scores: ArrayLike) -> LogisticFit:
    """The five-parameter fit if it is monotone over the distances, else the best one with b4 = 0 (``linear_term``).

    Raises:
        ValueError, MissingExtra: as :func:`fit_logistic`.
    """
    fit = fit_logistic(distances, scores)
    return fit if fit.monotone else fit_logistic(distances, scores, linear_term=False)


def refit(distances: ArrayLike, scores: ArrayLike, start: LogisticFit) -> float:
    """Pearson's correlation after the mapping is fitted anew from ``start``: for resamples of the same data.

    Returns:
        NaN where a side is constant or values are fewer than ``MIN_VALUES``.
    """
    x, y = np.asarray(distances, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if x.size < MIN_VALUES:
        return float("nan")
    x_mean, x_scale, y_mean, y_scale = x.mean(), x.std(), y.mean(), y.std()
    if not (x_scale > 0 and y_scale > 0):
        return float("nan")
    b1, b2, b3, b4, b5 = start.parameters
    u, v = (x - x_mean) / x_scale, (y - y_mean) / y_scale
    scaled = np.array(
        [
            b1 / y_scale,
            b2 * x_scale,
            (b3 - x_mean) / x_scale,
            b4 * x_scale / y_scale,
            (b5 + b4 * x_mean - y_mean) / y_scale,
        ]
    )
    return pearson(logistic(u, _polish(u, v, scaled, start.linear_term, REFIT_GAIN)), v)


def describe_fit(x: Values, y: Values, parameters: Parameters, linear_term: bool) -> LogisticFit:
    """Statistics of given parameters on distances ``x`` and scores ``y``."""
    mapped = logistic(x, parameters)
    sign = direction(parameters, float(x.min()), float(x.max()))
    return LogisticFit(
        parameters=parameters,
        pearson=pearson(mapped, y),
        rmse=float(np.sqrt(np.mean((mapped - y) ** 2))),
        monotone=sign != 0,
        direction=sign,
        linear_term=linear_term,
    )


def _checked(distances: ArrayLike, scores: ArrayLike) -> tuple[Values, Values]:
    x, y = np.asarray(distances, dtype=np.float64).ravel(), np.asarray(scores, dtype=np.float64).ravel()
    if x.size != y.size:
        raise ValueError(f"scores must have as many values as distances ({x.size}), got {y.size}")
    if x.size < MIN_VALUES:
        raise ValueError(f"a five-parameter fit needs at least {MIN_VALUES} values, got {x.size}")
    for name, values in (("distances", x), ("scores", y)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite, got {int((~np.isfinite(values)).sum())} that are not")
        if values.std() <= 1e-12 * max(1.0, float(np.abs(values).max())):
            raise ValueError(f"{name} are all {values[0]:g}: nothing to fit")
    return x, y


def _squares(x: Values, y: Values, parameters: Values) -> float:
    rest = logistic(x, parameters) - y
    return float(rest @ rest)


def _linear_part(x: Values, y: Values, steepness: float, centre: float, linear_term: bool) -> Values:
    curve = 0.5 * np.tanh(steepness * (x - centre) / 2)
    columns = [curve, x, np.ones_like(x)] if linear_term else [curve, np.ones_like(x)]
    solved = np.linalg.lstsq(np.stack(columns, axis=1), y, rcond=1e-9)[0]
    b4 = solved[1] if linear_term else 0.0
    return np.array([solved[0], steepness, centre, b4, solved[-1]])


def _polish(x: Values, y: Values, start: Values, linear_term: bool, gain: float) -> Values:
    """Levenberg-Marquardt on standardised values; never worse than ``start``."""
    from scipy.optimize import least_squares

    free = [0, 1, 2, 3, 4] if linear_term else [0, 1, 2, 4]

    def whole(chosen: Values) -> Values:
        parameters = start.copy()
        parameters[free] = chosen
        return parameters

    def jacobian(chosen: Values) -> Values:
        b1, b2, b3 = chosen[:3]
        t = np.tanh(b2 * (x - b3) / 2)
        bell = 0.25 * (1 - t * t)
        full = (0.5 * t, b1 * bell * (x - b3), -b1 * b2 * bell, x, np.ones_like(x))
        return np.stack([full[k] for k in free], axis=1)

    solved = least_squares(
        lambda chosen: logistic(x, whole(chosen)) - y,
        start[free],
        jac=jacobian,
        method="lm",
        x_scale="jac",
        ftol=gain,
    )
    return whole(solved.x)
