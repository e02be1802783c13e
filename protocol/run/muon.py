"""Muon's constants (docs/method.md 2.1): the same for the optimizer and for the bounds of 6(e).

Source: Jordan 2024 (kellerjordan.github.io/posts/muon), and 2502.16982 for the scale.
"""

import math
from typing import Final

COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
"""Of one Newton-Schulz step, X <- a X + b (X X^T) X + c (X X^T)^2 X: it maps every singular value s
of X to a s + b s^3 + c s^5."""
ITERATIONS: Final = 5  # Newton-Schulz steps of one update
LEAST_NORM: Final = 1e-7  # that a matrix is divided by before them
RMS: Final = 0.2  # of an AdamW update, which that of a full-rank orthogonal matrix is scaled to
LARGEST_SINGULAR: Final = 1.203
"""The most that a singular value can be after the Newton-Schulz steps. The first begins with values
of at most 1, since the matrix is divided by its norm; the polynomial is at most 1.2025 on [0, 1.25]
and positive there, so no further step leaves that range."""


def update_scale(shape: tuple[int, ...]) -> float:
    """Return the factor of an orthogonalised update of a matrix, 0.2 sqrt(max(m, n)).

    An m x n matrix with min(m, n) singular values of 1 has elements of root mean square
    1 / sqrt(max(m, n)).
    """
    return RMS * math.sqrt(max(shape))
