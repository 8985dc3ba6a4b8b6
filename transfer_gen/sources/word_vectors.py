"""Static word vectors as a source: one table, and the words that its rows stand for.

Read are the text of word2vec and fastText (`.vec`: Mikolov et al., 2013; Bojanowski et
al., 2017), that of GloVe (`.txt`: Pennington et al., 2014), and an array (`x.npy`)
with its words beside it, one a line in `x.txt` or as a list in `x.json`.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
from typing import Any

from etils import epath
import jax
import numpy as np

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.formats import numpy_files
from transfer_gen.sources import source as source_lib
from transfer_gen.transfer import vectors
from transfer_gen.transfer import vocabulary

# The name and axes of our models' own token table, so that a plan treats vectors like
# the table of a source model.
LEAF = "embed/embedding"
SUFFIXES = (".vec", ".txt", ".npy")


class WordVectors(source_lib.Source):
  """Vectors in a file, whose lines are read when they are asked for.

  The one leaf is `embed/embedding` f32[N, D] for N words.
  """

  def __init__(self, path: epath.Path):
    """Finds out how many words there are and how wide their vectors are.

    Raises:
      errors.UserError: If the file has another form, or its list of words is missing.
    """
    # Only the shape is found here. A file of vectors often has gigabytes of text, and a
    # plan is checked before any number is read.
    self._path, self._words = path, None
    if path.suffix == ".npy":
      self._words, shape = _list_beside(path), numpy_files.leaf(path).shape
    else:
      shape = vectors.text_shape(path)
    self._specs = tree.specs(
        {LEAF: jax.ShapeDtypeStruct(shape, np.dtype(np.float32))},
        {LEAF: ("vocab", "embed")})

  @property
  def path(self) -> epath.Path:
    """The file."""
    return self._path

  @property
  def title(self) -> str:
    """One line for people."""
    return f"{self.path}: word vectors"

  @property
  def specs(self) -> Mapping[str, tree.Spec]:
    """Spec of the one leaf."""
    return self._specs

  @functools.cached_property
  def vocabulary(self) -> vocabulary.Vocabulary:
    """The words, found by tokens however the file spells them, see `spellings`."""
    return _Words(tokens=vectors.read_words(self.path, self._words))

  def read(
      self, names: Sequence[str], shardings: source_lib.Shardings | None = None,
      picks: source_lib.Picks | None = None,
  ) -> Iterator[tuple[str, jax.Array]]:
    """Yields (name, array), placed where `shardings` says.

    Raises:
      errors.UserError: If the file is not whole, or a number in it is not finite.
    """
    for name in names:
      values = vectors.read(self.path, self._words).values
      yield name, source_lib.placed(name, values, shardings, picks)


# By the suffix alone: a table of numbers as text has no mark of its own.
def recognizes(path: epath.Path) -> bool:
  r"""Whether a path is a file of word vectors, by its suffix.

  Example:
    >>> import tempfile
    >>> path = epath.Path(tempfile.mkdtemp()) / "words.vec"
    >>> recognizes(path)
    False
    >>> _ = path.write_text("1 2\ncat 0.5 -1\n")
    >>> recognizes(path)
    True
  """
  return path.suffix.lower() in SUFFIXES and path.is_file()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Words(vocabulary.Vocabulary):
  """Words of a file as a vocabulary."""

  @functools.cached_property
  def rows(self) -> Mapping[bytes, int]:
    """The first row of each token that the file has under one of its spellings."""
    return _Spelled(super().rows)

  @functools.cached_property
  def longest(self) -> int:
    """Bytes of the longest token; a space may stand on each side of a word."""
    return super().longest + 2


# Spellings are tried on look-up and not stored: each word has several, and a file may
# have millions of words. `in` and `get` of a dict do not ask `__missing__`, so both are
# overridden.
class _Spelled(dict):
  """Rows of words, under each of their spellings."""

  def __missing__(self, token: bytes) -> int:
    for spelling in vectors.spellings(token):
      if spelling in self.keys():
        return dict.__getitem__(self, spelling)
    raise KeyError(token)

  def __contains__(self, token: Any) -> bool:
    return self.get(token) is not None

  def get(self, token: bytes, default: Any = None) -> Any:
    """The row of a token."""
    try:
      return self[token]
    except KeyError:
      return default


def _list_beside(path: epath.Path) -> epath.Path:
  """The list of an array's words.

  Raises:
    errors.UserError: If there is none.
  """
  for suffix in (".txt", ".json"):
    if path.with_suffix(suffix).exists():
      return path.with_suffix(suffix)
  raise errors.UserError(
      f"{path}: an array without words. Put their list beside it, as"
      f" {path.with_suffix('.txt').name} (a word a line) or"
      f" {path.with_suffix('.json').name}.")
