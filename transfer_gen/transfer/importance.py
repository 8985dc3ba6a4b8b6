"""Which entries of an axis a narrower target keeps, decided from values.

A plan holds no arrays of weights, so these functions read what they need and return an
axis map that is plain data.
"""

from collections.abc import Sequence

import numpy as np

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.transfer import axes as axes_lib
from transfer_gen.transfer import restore


def by_weights(
    source: restore.Source, axis: str, size: int, params: str = ".*"
) -> axes_lib.Select:
  """Selects the entries of an axis that have the largest weights.

  The importance of an entry is the sum of squares of all weights that belong to it, in
  the leaves that write the axis and in those that read it. Each leaf is divided by its
  own sum, so that none outweighs the others (magnitude pruning, Li et al., 2017).

  >>> from transfer_gen import sources
  >>> source = sources.from_tree(
  ...     {"up": np.array([[1.0, 0.0, 3.0], [2.0, 1.0, 0.0]])},
  ...     {"up": (("embed", "mlp"), ("embed",))})
  >>> by_weights(source, "mlp", size=2).index.tolist()
  [0, 2]

  Args:
    source: The checkpoint; its leaves are read once.
    axis: Name of the axis, e.g. `mlp`, `heads` or `embed`.
    size: Number of entries to keep.
    params: Regex for the leaves that count; give the `On` of the map the same one.
      Layers need not agree on which hidden units matter, so use one map a layer.

  Returns:
    An axis map that keeps the selected entries in their order.

  Raises:
    errors.UserError: If no leaf has the axis, if leaves have it at different sizes, or
      if there are fewer than `size` entries.
  """
  names = [name for name, spec in source.specs.items()
           if axis in spec.axes and tree.match([params], name)]
  sizes = {source.specs[name].shape[source.specs[name].axes.index(axis)]
           for name in names}
  if len(sizes) != 1:
    raise errors.UserError(
        f"importance: leaves {params!r} of the source carry axis `{axis}` at"
        f" {sorted(sizes) or 'no'} sizes, must be one size. Narrow params.")
  return by_scores(_scores(source, names, axis, sizes.pop()), size)


def by_scores(scores: np.ndarray, size: int) -> axes_lib.Select:
  """Selects the entries with the highest scores.

  >>> by_scores(np.array([0.1, 0.7, 0.2, 0.9]), size=2).index.tolist()
  [1, 3]

  Args:
    scores: f[S], e.g. mean squares of activations, see `models.statistics`. Among
      equal scores, the first entries are kept.
    size: Number of entries to keep.

  Returns:
    An axis map that keeps the selected entries in their order.

  Raises:
    errors.UserError: If `size` is not from 1 to S.
  """
  if not 0 < size <= len(scores):
    raise errors.UserError(
        f"importance: size is {size}, must be from 1 to {len(scores)}, the number of"
        " entries.")
  # Stable, so that equal scores give the same plan each time.
  best = np.argsort(-np.asarray(scores), kind="stable")[:size]
  return axes_lib.Select(index=np.sort(best).astype(np.int32))


def _scores(
    source: restore.Source, names: Sequence[str], axis: str, size: int) -> np.ndarray:
  """Returns f64[size], the importance of each entry of an axis."""
  scores = np.zeros(size)
  # Leaf by leaf as they are read, so that the f64 copy of one leaf is held at a time.
  for name, value in source.read(names):
    # f64, because a leaf may have millions of squares to sum.
    squares = np.square(np.asarray(value, np.float64))
    for dim, other in enumerate(source.specs[name].axes):
      if other == axis:
        score = squares.sum(tuple(d for d in range(squares.ndim) if d != dim))
        # A leaf of zeros must count nothing, instead of dividing by zero.
        scores += score / max(score.sum(), np.finfo(np.float64).tiny)
  return scores
