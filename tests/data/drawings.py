"""Makes drawings for tests."""

import numpy as np


def zigzags(count: int, seed: int = 0) -> list[np.ndarray]:
  """Returns drawings f32[N, 3] of two lines each, which differ in size and length."""
  generator = np.random.default_rng(seed)
  found = []
  for _ in range(count):
    size = int(generator.integers(4, 9))
    points = generator.integers(-9, 10, (size, 3)).astype(np.float32)
    points[:, 0] += 20 * (-1) ** np.arange(size)
    points[:, 2] = 0
    points[[size // 2, -1], 2] = 1
    found.append(points)
  return found


def save(path, **splits) -> None:
  """Writes drawings by the name of a split."""
  arrays = {}
  for name, drawings in splits.items():
    arrays[f"{name}_strokes"] = np.concatenate(drawings).astype(np.int16)
    arrays[f"{name}_offsets"] = np.cumsum([0, *map(len, drawings)])
  np.savez_compressed(path, **arrays)
