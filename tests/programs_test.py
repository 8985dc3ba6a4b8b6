"""Tests that programs which were compiled before are found in memory."""

import jax
from jax._src import compiler
import numpy as np

from tests import counting


def test_equal_programs_are_compiled_once_and_others_are_not():
  ours = lambda factor: jax.jit(lambda x: np.float32(factor) * x + 0.125)
  x = np.float32([1, 2, 3, 4, 5])

  with counting.calls((compiler, "backend_compile_and_load")) as counts:
    found = [ours(factor)(x) for factor in (1.375, 1.375, 2.375)]

  assert counts["backend_compile_and_load"] == 2
  for values, factor in zip(found, (1.375, 1.375, 2.375)):
    np.testing.assert_array_equal(values, np.float32(factor) * x + 0.125)
