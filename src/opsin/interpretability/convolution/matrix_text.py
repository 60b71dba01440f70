"""Matrices as text: rows on separate lines or separated by semicolons, numbers separated by spaces or commas."""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from opsin.errors import UserError
from opsin.visualization.formatting import decimal

LARGEST_NUMBER = 1e9


def parse_matrix(text: str, what: str, largest_side: int) -> NDArray[np.float64]:
    """Return the matrix (rows, columns) in a text such as `"1 0 -1; 2 0 -2; 1 0 -1"`; fractions like `1/9` are allowed.

    Args:
        text: The text.
        what: Name of the matrix in messages.
        largest_side: Largest number of rows and columns.

    Raises:
        UserError: Invalid number, rows of different lengths, or too many rows or columns.
    """
    rows = [row.replace(",", " ").split() for row in text.replace("\n", ";").split(";") if row.strip(" ,\t\r")]
    if not rows or max(len(rows), *map(len, rows)) > largest_side:
        raise UserError(f"{what} must have 1 to {largest_side} rows and columns of numbers, such as 1 0 -1; 2 0 -2")
    numbers = [[_number(word, what) for word in row] for row in rows]
    if len({len(row) for row in numbers}) > 1:
        counts = ", ".join(str(len(row)) for row in numbers)
        raise UserError(f"all rows of {what} must have the same length, got {counts} numbers")
    return np.array(numbers, np.float64)


def _number(word: str, what: str) -> float:
    above, _, below = word.partition("/")
    try:
        value = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not abs(value) <= LARGEST_NUMBER:  # also true for NaN
        raise UserError(f"{what}: {word[:40]!r} is not a number between -{LARGEST_NUMBER:g} and {LARGEST_NUMBER:g}")
    return value


def matrix_text(values: NDArray[np.float64]) -> str:
    """Return a matrix as text, one line per row, which `parse_matrix` reads back; repeating decimals are fractions."""
    return "\n".join(" ".join(_word(value) for value in row) for row in values.tolist())


def _word(value: float) -> str:
    return decimal(value) if abs(value - round(value, 2)) < 1e-9 else str(Fraction(value).limit_denominator(999))


def aligned_text(values: NDArray[np.float64]) -> str:
    """Return a matrix as text with aligned columns, one line per row, with four significant digits."""
    words = [[f"{value + 0.0:.4g}" for value in row] for row in values.tolist()]
    width = max(len(word) for row in words for word in row)
    return "\n".join(" ".join(word.rjust(width) for word in row) for row in words)
