"""How far an accuracy may lie from that of all images of its kind, since it was measured on a sample of them."""

from __future__ import annotations

import math

Z_95 = 1.959963984540054
"""The normal quantile of 97.5 percent."""


def wilson_interval(accuracy: float, images: int, z: float = Z_95) -> tuple[float, float]:
    """The score interval of a binomial share; holds its level near 0 and 1 too, where mean plus minus deviation does not.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927:
    ( p + z^2 / 2n ± z sqrt( p (1 - p) / n + z^2 / 4n^2 ) ) / ( 1 + z^2 / n ).

    Args:
        accuracy: p, a fraction.
        images: n, at least 1.

    Returns lower and upper end, fractions. It counts the test images as independent draws and knows nothing of seeds.
    """
    spread = z * math.sqrt(accuracy * (1 - accuracy) / images + z * z / (4 * images * images))
    middle, whole = accuracy + z * z / (2 * images), 1 + z * z / images
    return max(0.0, (middle - spread) / whole), min(1.0, (middle + spread) / whole)
