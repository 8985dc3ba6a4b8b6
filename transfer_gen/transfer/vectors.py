"""Auxiliary embeddings: vectors of words or tokens from files such as fastText's.

`mixtures.focus` and `mixtures.wechsel` use them to start new tokens.

Axes: N words of a file, V tokens of a vocabulary, D width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from transfer_gen import errors
from transfer_gen import system
from transfer_gen import untrusted
from transfer_gen.formats import numpy_files
from transfer_gen.transfer import vocabulary

_DIGITS = 13  # A number of more than these is more than any file holds.
_SPACE = "\u2581".encode()  # What SentencePiece writes for a space.


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Vectors:
  """Words and their vectors, in the order of the file.

  Attributes:
    words: N words, as bytes of text.
    values: f32[N, D].
  """
  words: tuple[bytes, ...]
  values: np.ndarray

  def __post_init__(self) -> None:
    if self.values.ndim != 2 or len(self.words) != len(self.values):
      raise errors.UserError(
          f"Vectors: {len(self.words)} words and values of shape"
          f" {self.values.shape}. Each word needs one row.")
    bad = np.flatnonzero(~np.isfinite(self.values).all(axis=1))
    if bad.size:
      raise errors.UserError(
          f"Vectors: the vector of {self.words[bad[0]]!r} (row {bad[0]}) is not"
          f" finite; {bad.size} of the vectors are not. Remove them from the file.")


def read(
    path: epath.PathLike, words: epath.PathLike | None = None,
    limit: int | None = None) -> Vectors:
  """Reads vectors as text, or an array (`.npy`) with a list of its words.

  Args:
    path: A `.vec` file of word2vec or fastText, whose first line gives the number of
      words and the width; a `.txt` file of GloVe, which has no such line; or a `.npy`
      file with numbers [N, D].
    words: For `.npy`, a file with one word per line or a `.json` list; otherwise None.
    limit: The number of vectors to read, from the start. If None, all.

  Raises:
    errors.UserError: If there is no such file, its format is another, or it is cut off.
  """
  path = _checked(path, words)
  if words is None:
    return _read_text(path, limit)
  return _read_array(path, epath.Path(words).expanduser(), limit)


def text_shape(path: epath.PathLike) -> tuple[int, int]:
  """Returns N and D of vectors in a text file.

  The first line of a `.vec` file gives them; the lines of a `.txt` file are counted.

  Raises:
    errors.UserError: If there is no such file, or its format is another.
  """
  path = _checked(path)
  with untrusted.opened(path) as file, system.reading(path):
    first = file.readline().split()
    if path.suffix == ".vec":
      if len(first) != 2 or not all(part.isdigit() for part in first):
        raise errors.UserError(
            f"{path}: the first line must say how many words and how wide, as in"
            " '2000000 300'. Put it there.")
      count, width = (int(part) if len(part) < _DIGITS else 2**64 for part in first)
      # A number takes a byte at least.
      if count * width > path.stat().length:
        raise errors.UserError(
            f"{path}: the first line says {first[0][:_DIGITS].decode()} words of"
            f" {first[1][:_DIGITS].decode()} numbers, for which it is too short. Is the"
            " file cut off?")
      return count, width
    if len(first) < 2 or not all(map(_is_number, first[1:])):
      raise errors.UserError(
          f"{path}: {b' '.join(first)[:60]!r} is no word with numbers.")
    return 1 + sum(1 for _ in file), len(first) - 1


def read_words(
    path: epath.PathLike, words: epath.PathLike | None = None) -> tuple[bytes, ...]:
  r"""Returns the words that `read` reads, without their vectors.

  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   path = epath.Path(folder) / "words.vec"
  ...   _ = path.write_text("2 3\ncat 0 1 2\ndog 3 4 5\n")
  ...   read_words(path), text_shape(path), read(path, limit=1).values.tolist()
  ((b'cat', b'dog'), (2, 3), [[0.0, 1.0, 2.0]])

  Raises:
    errors.UserError: As `read`, for what can be seen without reading the numbers.
  """
  path = _checked(path, words)
  if words is not None:
    return tuple(_read_words(epath.Path(words).expanduser()))
  count, width = text_shape(path)
  return tuple(word for _, word, _ in _lines(path, count, width))


def read_dictionary(path: epath.PathLike) -> tuple[tuple[bytes, bytes], ...]:
  """Reads pairs of words, one pair per line, separated by a tab or spaces.

  Raises:
    errors.UserError: If there is no such file, or a line is not a pair.
  """
  path = epath.Path(path).expanduser()
  if not path.exists():
    raise errors.UserError(f"{path}: there is no such file.")
  pairs = []
  for number, line in enumerate(untrusted.read(path).splitlines(), 1):
    pair = line.split(b"\t") if b"\t" in line else line.split()
    if len(pair) not in (0, 2):
      raise errors.UserError(
          f"{path}, line {number}: {line[:80]!r} is no pair of words.")
    pairs += [tuple(word.strip() for word in pair)] if pair else []
  return tuple(pairs)


def by_token(vectors: Vectors, tokens: Sequence[bytes]) -> np.ndarray:
  """Returns the vector of each token that the file holds.

  The file may spell a token as its text, with U+2581 for spaces, as byte-level BPE
  does, or without the spaces around it, as a file of plain words does. The first
  spelling that the file holds is taken.

  >>> vectors = Vectors(words=(b"cat",), values=np.ones((1, 2), np.float32))
  >>> by_token(vectors, [b" cat", b"dog"]).tolist()
  [[1.0, 1.0], [0.0, 0.0]]

  Returns:
    f32[V, D]; zeros for tokens that the file lacks.
  """
  rows = _rows(vectors)
  found = (next((rows[s] for s in spellings(token) if s in rows), None)
           for token in tokens)
  return _stack(vectors, found, lambda row: vectors.values[row])


def spellings(token: bytes) -> Iterator[bytes]:
  r"""Yields the ways in which a file may spell a token; none for special tokens.

  >>> list(spellings(b" a"))
  [b' a', b'\xe2\x96\x81a', b'\xc4\xa0a', b'a']
  """
  if token:
    yield token
    yield token.replace(b" ", _SPACE)
    letters = vocabulary.byte_letters()
    yield "".join(letters[token[i:i + 1]] for i in range(len(token))).encode()
    if token.strip():
      yield token.strip()


def by_ngrams(
    vectors: Vectors, tokens: Sequence[bytes], sizes: Sequence[int] = (3, 4, 5, 6)
) -> np.ndarray:
  """Returns the sum of the vectors of each token's n-grams and of the token itself.

  This is the way of WECHSEL (Minixhofer et al., 2022) for a file that holds n-grams of
  characters.

  >>> vectors = Vectors(words=(b"cat", b"ats"), values=np.eye(2, dtype=np.float32))
  >>> by_ngrams(vectors, [b"cats"], sizes=(3,)).tolist()
  [[1.0, 1.0]]

  Args:
    vectors: Vectors of n-grams.
    tokens: V tokens.
    sizes: Numbers of characters of the n-grams.

  Returns:
    f32[V, D]; zeros for tokens of which the file has nothing.
  """
  rows = _rows(vectors)

  def parts(token: bytes) -> list[int]:
    text = token.decode("utf-8", "ignore").strip()
    grams = {text[i:i + n] for n in sizes for i in range(len(text) - n + 1)} | {text}
    return [rows[g.encode()] for g in sorted(grams) if g.encode() in rows]

  return _stack(vectors, map(parts, tokens),
                lambda found: vectors.values[found].sum(0, np.float64))


def by_words(vectors: Vectors, pieces: vocabulary.Vocabulary) -> np.ndarray:
  """Returns the mean vector of the words that each token is a piece of.

  This is the way of WECHSEL (Minixhofer et al., 2022) for a file of plain words. Words
  are weighted by frequency. The file must list frequent words first, as such files do:
  the word of rank r has weight 1 / r (Zipf's law). A word is cut into tokens as it
  would be after a space.

  >>> vectors = Vectors(words=(b"ab",), values=np.ones((1, 2), np.float32))
  >>> by_words(vectors, vocabulary.Vocabulary(tokens=(b" a", b"b", b"c"))).tolist()
  [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]

  Returns:
    f32[V, D]; zeros for tokens that are in no word.
  """
  sums = np.zeros((len(pieces.tokens), vectors.values.shape[1]))
  weights = np.zeros(len(sums))
  for rank, (word, value) in enumerate(zip(vectors.words, vectors.values), 1):
    for row in set(vocabulary.cut(b" " + word, pieces)):
      sums[row] += value / rank
      weights[row] += 1 / rank
  return (sums / np.where(weights > 0, weights, 1)[:, None]).astype(np.float32)


def align(
    vectors: Vectors, onto: Vectors, pairs: Iterable[tuple[bytes, bytes]]) -> Vectors:
  """Rotates vectors of one language onto those of another, by a dictionary.

  >>> words = Vectors(words=(b"Hund", b"Tag"), values=np.eye(2, dtype=np.float32))
  >>> onto = Vectors(words=(b"day", b"dog"), values=np.eye(2, dtype=np.float32))
  >>> pairs = [(b"Hund", b"dog"), (b"Tag", b"day")]
  >>> align(words, onto, pairs).values.round(3).tolist()
  [[0.0, 1.0], [1.0, 0.0]]

  Args:
    vectors: The vectors to rotate.
    onto: The vectors to rotate onto, of the same width.
    pairs: Words of `vectors` with their translations in `onto`.

  Returns:
    The rotated vectors.

  Raises:
    errors.UserError: If the widths differ, or if fewer than D pairs have vectors on
      both sides: these would not determine the rotation.
  """
  width, other = vectors.values.shape[1], onto.values.shape[1]
  if width != other:
    raise errors.UserError(
        f"align: vectors of width {width} cannot be rotated onto those of width"
        f" {other}. Take files of one width.")
  pairs, mine, theirs = list(pairs), _rows(vectors), _rows(onto)
  known = [(mine[a], theirs[b]) for a, b in pairs if a in mine and b in theirs]
  if len(known) < width:
    raise errors.UserError(
        f"align: {len(known)} of {len(pairs)} pairs have vectors on both sides, and"
        f" a rotation of width {width} needs as many. Are the pairs the other way"
        " round? Or give a larger dictionary.")
  rows, images = map(list, zip(*known))
  rotation = procrustes(vectors.values[rows], onto.values[images])
  return dataclasses.replace(
      vectors, values=(vectors.values @ rotation).astype(np.float32))


def procrustes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Returns the orthogonal R that minimizes |x R - y| (Schönemann, 1966).

  >>> procrustes(np.eye(2), np.array([[0, 1], [1, 0]])).round(6).tolist()
  [[0.0, 1.0], [1.0, 0.0]]

  Args:
    x: f32[N, D].
    y: f32[N, D].

  Returns:
    f64[D, D].
  """
  left, _, right = np.linalg.svd(x.astype(np.float64).T @ y.astype(np.float64))
  return left @ right


def _checked(
    path: epath.PathLike, words: epath.PathLike | None = None) -> epath.Path:
  """Returns the path, after checking its name and that the files exist."""
  path = epath.Path(path).expanduser()
  listed = None if words is None else epath.Path(words).expanduser()
  if path.suffix not in (".vec", ".txt", ".npy"):
    raise errors.UserError(
        f"{path}: vectors are word2vec text (.vec), GloVe's (.txt), or an array"
        " (.npy) with a list of its words.")
  if (path.suffix == ".npy") != (listed is not None):
    raise errors.UserError(
        f"{path}: a .npy file needs words=, the file with its list of words; a .vec"
        " or .txt file holds its own.")
  for file in (path, listed):
    if file is not None and not file.exists():
      raise errors.UserError(f"{file}: there is no such file.")
  return path


def _lines(
    path: epath.Path, count: int, width: int
) -> Iterator[tuple[int, bytes, list[bytes]]]:
  """Yields the first `count` lines: line number, word, and its numbers as text."""
  headed, done = path.suffix == ".vec", 0
  with untrusted.opened(path) as file, system.reading(path):
    if headed:
      file.readline()
    for number, line in enumerate(file, 1 + headed):
      if done == count:
        break
      # From the right: some files have words with spaces in them.
      word, *numbers = line.rstrip(b" \r\n").rsplit(b" ", width)
      if len(numbers) != width:
        raise _no_vector(path, number, line, width)
      yield number, word, numbers
      done += 1
  if done != count:
    raise errors.UserError(
        f"{path}: the first line says {count} words, and {done} follow. Is the file"
        " cut off?")


def _is_number(text: bytes) -> bool:
  try:
    float(text)
  except ValueError:
    return False
  return True


def _read_text(path: epath.Path, limit: int | None) -> Vectors:
  count, width = text_shape(path)
  count = count if limit is None else min(count, limit)
  # Lists that grow, because a wrong first line must not allocate all memory.
  words, values = [], []
  for number, word, numbers in _lines(path, count, width):
    try:
      values.append(np.array(numbers, np.float32))
    except ValueError as error:
      raise _no_vector(path, number, b" ".join([word, *numbers]), width) from error
    words.append(word)
  return Vectors(words=tuple(words), values=np.array(values).reshape(count, width))


def _no_vector(
    path: epath.Path, number: int, line: bytes, width: int) -> errors.UserError:
  return errors.UserError(
      f"{path}, line {number}: {line[:60]!r} is no word with {width} numbers.")


def _read_array(path: epath.Path, words: epath.Path, limit: int | None) -> Vectors:
  values = numpy_files.leaf(path).read()
  if values.ndim != 2 or values.dtype.kind not in "fiu":
    raise errors.UserError(
        f"{path}: {values.dtype}{list(values.shape)} is no table of numbers[N, D].")
  listed = _read_words(words)
  if len(listed) != len(values):
    raise errors.UserError(
        f"{words}: {len(listed)} words for the {len(values)} rows of {path}.")
  return Vectors(words=tuple(listed[:limit]), values=values[:limit].astype(np.float32))


def _read_words(path: epath.Path) -> list[bytes]:
  data = untrusted.read(path)
  if path.suffix != ".json":
    lines = data.replace(b"\r\n", b"\n").split(b"\n")
    return lines[:-1] if lines[-1] == b"" else lines
  try:
    listed = untrusted.parse_json(data)
  except errors.UserError as error:
    raise errors.UserError(f"{path}: {error}") from error
  if not isinstance(listed, list) or not all(isinstance(w, str) for w in listed):
    raise errors.UserError(f"{path}: no JSON list of words.")
  return [word.encode() for word in listed]


def _rows(vectors: Vectors) -> dict[bytes, int]:
  """Returns the first row of each word."""
  return {word: row for row, word in reversed(list(enumerate(vectors.words)))}


def _stack(
    vectors: Vectors, found: Iterable[Any], value_fn: Callable[..., np.ndarray]
) -> np.ndarray:
  """Returns f32[V, D]: `value_fn` of what each token has, zeros for None or []."""
  empty = np.zeros(vectors.values.shape[1], np.float32)
  return np.stack([empty if one is None or one == [] else value_fn(one)
                   for one in found]).astype(np.float32)
