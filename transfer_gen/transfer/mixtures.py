"""Makes rows for tokens that the source lacks, as weighted sums of rows that it has.

`pieces`, `focus` and `wechsel` return plain data for `MatchTokens(mixture=...)`.

Axes: S source tokens, T target tokens, M mixed tokens, K parts of each, D width of the
auxiliary vectors.
"""

import collections
from collections.abc import Iterator, Mapping
import dataclasses
import functools

import numpy as np

from transfer_gen import errors
from transfer_gen.config import validate
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import vocabulary

_CHUNK = 64  # Rows of similarities at a time, so few that they stay in the cache.
_SHOWN = 6  # The most parts of a mixture that its text lists.
_FILLED = {
    "mean": "mean of all rows", "normal": "drawn around the mean of all rows",
    "covariance": "drawn around the mean of all rows, with their covariance",
    "zeros": "zeros", "init": "the model's own init",
}


def pieces(
    source: vocabulary.Vocabulary, target: vocabulary.Vocabulary
) -> plan_lib.Mixture:
  """Makes each new token the mean of the source tokens that spell it.

  Tokens that the source cannot spell are not in the mixture.

  >>> mixture = pieces(vocabulary.Vocabulary(tokens=(b"a", b"b")),
  ...                  vocabulary.Vocabulary(tokens=(b"a", b"ab")))
  >>> mixture.rows.tolist(), mixture.index.tolist(), mixture.weights.tolist()
  ([1], [[0, 1]], [[0.5, 0.5]])
  """
  new = np.flatnonzero(vocabulary.match(source, target) < 0).tolist()
  cuts = {row: vocabulary.cut(target.tokens[row], source) for row in new}
  # A piece that a token holds twice has twice the weight.
  counted = {row: collections.Counter(cut) for row, cut in cuts.items() if cut}
  return _mixture({row: (list(found), np.array(list(found.values())) / found.total())
                   for row, found in counted.items()})


def focus(
    source: vocabulary.Vocabulary, target: vocabulary.Vocabulary, vectors: np.ndarray
) -> plan_lib.Mixture:
  """Makes each new token a sum of matching tokens with similar auxiliary vectors.

  The weights are the sparsemax of the cosine similarities (FOCUS: Dobler and de Melo,
  2023).

  >>> mixture = focus(
  ...     vocabulary.Vocabulary(tokens=(b"a", b"b")),
  ...     vocabulary.Vocabulary(tokens=(b"b", b"a", b"new")),
  ...     vectors=np.array([[1, 0], [0, 1], [0, 2]], np.float32))
  >>> mixture.rows.tolist(), mixture.index[0, 0], mixture.weights[0, 0]
  ([2], np.int32(0), np.float32(1.0))

  Args:
    source: S tokens.
    target: T tokens.
    vectors: f32[T, D], auxiliary vectors of the target's tokens, see
      `vectors.by_token`. A row of zeros means that the token has none; it is then not
      in the mixture.

  Raises:
    errors.UserError: If vectors do not fit the tokens, or no matching token has one.
  """
  _check_vectors("target", target, vectors)
  index = vocabulary.match(source, target)
  plain = np.array([bool(token) for token in target.tokens])
  known = plain & vectors.any(axis=1)
  matched, new = (np.flatnonzero(known & at) for at in (index >= 0, index < 0))
  if not matched.size:
    raise errors.UserError(
        "focus: no token that both vocabularies have has an auxiliary vector. Give"
        " vectors of the target's tokens.")
  units = _units(vectors)
  parts = {}
  for rows in _chunks(new):
    weights = sparsemax(units[rows] @ units[matched].T)
    for row, weight in zip(rows.tolist(), weights):
      found = np.flatnonzero(weight)
      # `matched` are rows of the target, and a mixture lists those of the source.
      parts[row] = index[matched[found]], weight[found]
  return _mixture(parts)


def wechsel(
    source: vocabulary.Vocabulary,
    target: vocabulary.Vocabulary,
    source_vectors: np.ndarray,
    target_vectors: np.ndarray,
    neighbours: int = 10,
    temperature: float = 0.1,
) -> plan_lib.Mixture:
  """Makes each token a sum of the source tokens nearest to it in a common space.

  The weights are the softmax of the cosine similarities (WECHSEL: Minixhofer et al.,
  2022). Matching tokens are mixed, too, because one string may be a word of both
  languages with two meanings. Special tokens are not.

  >>> mixture = wechsel(
  ...     vocabulary.Vocabulary(tokens=(b"cat", b"dog")),
  ...     vocabulary.Vocabulary(tokens=(b"Hund",)),
  ...     source_vectors=np.array([[1, 0], [0, 1]], np.float32),
  ...     target_vectors=np.array([[0, 3]], np.float32), neighbours=1)
  >>> mixture.rows.tolist(), mixture.index.tolist(), mixture.weights.tolist()
  ([0], [[1]], [[1.0]])

  Args:
    source: S tokens.
    target: T tokens.
    source_vectors: f32[S, D], see `vectors.by_ngrams` and `vectors.by_words`; a row of
      zeros means that the token has none.
    target_vectors: f32[T, D], the same for the target, in the space of the source's
      vectors, see `vectors.align`. Tokens without one are not in the mixture.
    neighbours: K, the most source tokens for each target token.
    temperature: Temperature of the softmax, above 0; lower values weigh the nearest
      token more.

  Raises:
    errors.UserError: If vectors do not fit their tokens or each other, if no source
      token has one, or if an argument is out of range.
  """
  _check_vectors("source", source, source_vectors)
  _check_vectors("target", target, target_vectors)
  if source_vectors.shape[1] != target_vectors.shape[1]:
    raise errors.UserError(
        f"wechsel: source vectors of width {source_vectors.shape[1]} and target"
        f" vectors of width {target_vectors.shape[1]}: align them first.")
  if neighbours < 1 or not temperature > 0:
    raise errors.UserError(
        f"wechsel: neighbours={neighbours} and temperature={temperature}; both must"
        " be above 0.")
  # `rows` holds the first of equal tokens, so none is a neighbour twice.
  known = np.array(sorted(r for r in source.rows.values() if source_vectors[r].any()))
  if not known.size:
    raise errors.UserError("wechsel: no source token has an auxiliary vector.")
  plain = np.array([bool(token) for token in target.tokens])
  units, neighbours = _units(source_vectors[known]), min(neighbours, known.size)
  parts = {}
  for rows in _chunks(np.flatnonzero(plain & target_vectors.any(axis=1))):
    similar = _units(target_vectors[rows]) @ units.T
    # A partition finds the K nearest without sorting all S; `_mixture` sorts these.
    nearest = np.argpartition(-similar, neighbours - 1, axis=1)[:, :neighbours]
    scores = np.take_along_axis(similar, nearest, axis=1).astype(np.float64)
    scores /= temperature
    # Less the largest score, so that a low temperature cannot overflow.
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    parts |= {row: (known[near], weight)
              for row, near, weight in zip(rows.tolist(), nearest, weights)}
  return _mixture(parts)


def sparsemax(scores: np.ndarray) -> np.ndarray:
  """Returns the point of the simplex nearest to each row.

  This is the sparsemax (Martins and Astudillo, 2016).

  >>> sparsemax(np.array([2.0, 1.5, 0.0])).tolist()
  [0.75, 0.25, 0.0]

  Args:
    scores: float[..., K].

  Returns:
    f64[..., K], weights that sum to one; most of them are zero.
  """
  # Algorithm 1 of the paper, for all rows at once. The sums are f64: over thousands of
  # scores f32 loses the digits that decide which weights are zero.
  ordered = np.sort(scores, axis=-1)[..., ::-1]
  excess = ordered.cumsum(-1, dtype=np.float64) - 1
  rank = np.arange(1, ordered.shape[-1] + 1)
  # How many weights are above zero; rank 1 always is, so this is at least one.
  size = (rank * ordered > excess).sum(-1, keepdims=True)
  threshold = np.take_along_axis(excess, size - 1, -1) / size
  return np.maximum(scores - threshold, 0)


def join(
    first: plan_lib.Mixture | None, second: plan_lib.Mixture
) -> plan_lib.Mixture:
  """Joins two mixtures; if both have a row, the first one's is taken.

  >>> one = plan_lib.Mixture(
  ...     rows=np.array([0]), index=np.array([[3]]), weights=np.array([[1.0]]))
  >>> two = plan_lib.Mixture(
  ...     rows=np.array([0, 1]), index=np.array([[1, 2], [1, 2]]),
  ...     weights=np.array([[0.5, 0.5], [0.5, 0.5]]))
  >>> join(one, two).index.tolist(), join(one, two).weights.tolist()
  ([[3, 0], [1, 2]], [[1.0, 0.0], [0.5, 0.5]])
  """
  if first is None:
    return second
  # Rows with fewer parts are filled up with entry 0 at weight 0, which adds nothing.
  stay = ~np.isin(second.rows, first.rows)
  width = max(first.index.shape[1], second.index.shape[1])
  fill = lambda x: np.pad(x, ((0, 0), (0, width - x.shape[1])))
  return plan_lib.Mixture(
      rows=np.concatenate([first.rows, second.rows[stay]]),
      index=np.concatenate([fill(first.index), fill(second.index[stay])]),
      weights=np.concatenate([fill(first.weights), fill(second.weights[stay])]))


def check(mixture: plan_lib.Mixture) -> None:
  """Checks a mixture by itself.

  Raises:
    errors.UserError: If shapes disagree, a row occurs twice, or the weights of a row do
      not sum to one.
  """
  # Not where a mixture is made, which compiled programs do as well.
  validate.check(mixture, "Mixture")
  rows, index, weights = mixture.rows, mixture.index, mixture.weights
  if index.shape != weights.shape or index.shape[:-1] != rows.shape:
    raise errors.UserError(
        f"Mixture: rows {rows.shape}, index {index.shape} and weights"
        f" {weights.shape}; they must be [M], [M, K] and [M, K].")
  values, counts = np.unique(rows, return_counts=True)
  if (counts > 1).any():
    raise errors.UserError(
        f"Mixture: row {values[counts > 1][0]} occurs {counts.max()} times. Remove all"
        " but one.")
  sums = weights.sum(axis=1, dtype=np.float64)
  wrong = np.flatnonzero(~(np.abs(sums - 1) < 1e-3))  # NaN is wrong too.
  if wrong.size:
    raise errors.UserError(
        f"Mixture: the weights of row {rows[wrong[0]]} sum to {sums[wrong[0]]:.4g} and"
        f" must sum to 1 ({wrong.size} rows are wrong). Divide them by their sum.")


def check_fits(
    mixture: plan_lib.Mixture, source: vocabulary.Vocabulary,
    target: vocabulary.Vocabulary) -> None:
  """Checks that a mixture was made for these vocabularies.

  >>> old = vocabulary.Vocabulary(tokens=(b"a", b"b"))
  >>> new = vocabulary.Vocabulary(tokens=(b"a", b"ab"))
  >>> check_fits(pieces(old, new), old, new)  # Raises nothing: it was made for them.

  Raises:
    errors.UserError: If the mixture has rows that one of the two lacks.
  """
  for side, rows, tokens in (("target", mixture.rows, target.tokens),
                             ("source", mixture.index, source.tokens)):
    # No full stop in the message, because `resolve` puts it into a sentence.
    if rows.size and not 0 <= rows.min() <= rows.max() < len(tokens):
      raise errors.UserError(
          f"the mixture uses {side} tokens {rows.min()} to {rows.max()}, and the"
          f" {side}'s tokenizer has 0 to {len(tokens) - 1}: it was made for other"
          " vocabularies; make it again")


def note(
    target: vocabulary.Vocabulary, index: np.ndarray, mixture: plan_lib.Mixture | None
) -> str:
  """Returns how many tokens match, by number and by share of the text.

  >>> note(vocabulary.Vocabulary(tokens=(b"a", b"b")), np.array([0, -1, -2]), None)
  '1 of 2 matched, 1 padded'

  Args:
    target: T tokens.
    index: i32[rows of the axis], as in `plan.Binding`.
    mixture: The mixture of the same binding, or None.
  """
  matched = index[:len(target.tokens)] >= 0
  text = f"{matched.sum()} of {len(matched)} matched"
  if target.counts is not None and target.counts.sum():
    share = target.counts[matched].sum() / target.counts.sum()
    text += f" ({share:.1%} of the text)"
  if mixture is not None:
    text += f", {len(mixture.rows)} mixed"
  if padded := len(index) - len(matched):
    text += f", {padded} padded"
  return text


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Origins(Mapping[int, str]):
  """Texts that say what each fresh row of a vocabulary is made of.

  Each text is made when it is read, because a vocabulary may have 100,000 rows.

  Attributes:
    source: S tokens.
    target: T tokens.
    index: i32[rows of the axis], as in `plan.Binding`.
    fresh: How rows without a mixture are filled.
    mixture: The mixture of the same binding, or None.
  """
  source: vocabulary.Vocabulary
  target: vocabulary.Vocabulary
  index: np.ndarray
  fresh: str
  mixture: plan_lib.Mixture | None

  def __getitem__(self, row: int) -> str:
    if not 0 <= row < len(self.index) or self.index[row] >= 0:
      raise KeyError(row)
    if row >= len(self.target.tokens):
      drawn = self.fresh in ("normal", "covariance")  # Padding is never drawn.
      return f"padding: {_FILLED['mean' if drawn else self.fresh]}"
    token = repr(self.target.tokens[row])
    if roles := [role for role, at in self.target.roles.items() if at == row]:
      token = "/".join(roles)
    if row not in self._mixed:
      return f"{token}: {_FILLED[self.fresh]}"
    return f"{token}: {self._parts(self._mixed[row])}"

  def __iter__(self) -> Iterator[int]:
    return iter(np.flatnonzero(self.index < 0).tolist())

  def __len__(self) -> int:
    return int((self.index < 0).sum())

  @functools.cached_property
  def _mixed(self) -> dict[int, int]:
    """The position of each row in the mixture."""
    rows = () if self.mixture is None else self.mixture.rows.tolist()
    return {row: at for at, row in enumerate(rows)}

  def _parts(self, at: int) -> str:
    assert self.mixture is not None
    weights = self.mixture.weights[at]
    # By size and not by value: mixtures from elsewhere may have negative weights.
    found = np.argsort(-np.abs(weights), kind="stable")[:np.count_nonzero(weights)]
    names = [repr(self.source.tokens[self.mixture.index[at, k]])
             for k in found[:_SHOWN]]
    more = found[_SHOWN:]
    if np.allclose(weights[found], 1 / max(len(found), 1)):
      names += [f"{len(more)} more"] if len(more) else []
      return f"mean of {', '.join(names)}"
    shown = [f"{weights[k]:.3g} {name}" for k, name in zip(found, names)]
    rest = [f"{weights[more].sum():.3g} of {len(more)} more"] if len(more) else []
    return " + ".join(shown + rest)


def _mixture(parts: Mapping[int, tuple]) -> plan_lib.Mixture:
  """Returns a mixture from {row: (source rows, weights)}, largest weights first."""
  width = max((len(index) for index, _ in parts.values()), default=1)
  index = np.zeros((len(parts), width), np.int32)
  weights = np.zeros((len(parts), width), np.float32)
  for at, (rows, values) in enumerate(parts.values()):
    order = np.argsort(-values, kind="stable")
    index[at, :len(order)] = np.asarray(rows)[order]
    weights[at, :len(order)] = values[order]
  return plan_lib.Mixture(
      rows=np.array(list(parts), np.int32), index=index, weights=weights)


def _check_vectors(
    side: str, tokens: vocabulary.Vocabulary, vectors: np.ndarray) -> None:
  if vectors.ndim != 2 or len(vectors) != len(tokens.tokens):
    raise errors.UserError(
        f"The {side} has {len(tokens.tokens)} tokens and its auxiliary vectors have"
        f" shape {vectors.shape}; each token needs one row, see vectors.by_token.")


def _units(vectors: np.ndarray) -> np.ndarray:
  """Returns f32[..., D], vectors of length one; zeros stay zeros."""
  # The squares of small or large f32 numbers leave the range of f32.
  vectors = vectors.astype(np.float64)
  lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
  return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
  return (rows[at:at + _CHUNK] for at in range(0, len(rows), _CHUNK))
