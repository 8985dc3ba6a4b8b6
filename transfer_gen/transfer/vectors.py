"""Auxiliary embeddings: vectors of words or tokens from other people's files.

Axes: N words of a file, V tokens of a vocabulary, D width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import json

from etils import epath
import numpy as np

from transfer_gen import errors
from transfer_gen.transfer import vocabulary

_SPACE = "\u2581".encode()  # As SentencePiece writes it.


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Vectors:
  """Words and their vectors, in the order of the file.

  Attributes:
    words: N words, as bytes of text.
    values: f32[N, D].
  """
  words: tuple[bytes, ...]
  values: np.ndarray

  def __post_init__(self):
    if self.values.ndim != 2 or len(self.words) != len(self.values):
      raise errors.UserError(
          f"Vectors: {len(self.words)} words and values of shape"
          f" {self.values.shape}. Each word needs one row.")
    bad = np.flatnonzero(~np.isfinite(self.values).all(axis=1))
    if bad.size:
      raise errors.UserError(
          f"Vectors: the vector of {self.words[bad[0]]!r} (row {bad[0]}) is not"
          f" finite, as {bad.size} are. Take them out of the file.")


def read(
    path: epath.PathLike, words: epath.PathLike | None = None,
    limit: int | None = None) -> Vectors:
  """Reads vectors as text, or an array (`.npy`) with a list of its words.

  Args:
    path: The `.vec` file of word2vec or fastText, whose first line says how many
      words and how wide; that of GloVe, `.txt`, without such a line; or the `.npy`
      file, a number[N, D].
    words: For `.npy`: a file with one word a line, or a `.json` list.
    limit: How many of the first to read. None: all.

  Raises:
    errors.UserError: No such file, another form, or a file that is cut off.
  """
  path = _checked(path, words)
  if path.suffix != ".npy":
    return _read_text(path, limit)
  return _read_array(path, epath.Path(words).expanduser(), limit)


def text_shape(path: epath.PathLike) -> tuple[int, int]:
  """N and D of vectors as text; `.vec` says them in its first line, of `.txt` the
  lines are counted.

  Raises:
    errors.UserError: No such file, or another form.
  """
  path = _checked(path)
  with path.open("rb") as file:
    first = file.readline().split()
    if path.suffix == ".vec":
      if len(first) != 2 or not all(part.isdigit() for part in first):
        raise errors.UserError(
            f"{path}: the first line must say how many words and how wide, as in"
            " '2000000 300'. Put it there.")
      return int(first[0]), int(first[1])
    if len(first) < 2 or not all(map(_is_number, first[1:])):
      raise errors.UserError(
          f"{path}: {b' '.join(first)[:60]!r} is no word with numbers.")
    return 1 + sum(1 for _ in file), len(first) - 1


def read_words(
    path: epath.PathLike, words: epath.PathLike | None = None) -> tuple[bytes, ...]:
  """The words of what `read` reads, without their vectors.

  Raises:
    errors.UserError: As `read`, as far as the words say.
  """
  path = _checked(path, words)
  if path.suffix == ".npy":
    return tuple(_read_words(epath.Path(words).expanduser()))
  count, width = text_shape(path)
  return tuple(word for _, word, _ in _lines(path, count, width))


def read_dictionary(path: epath.PathLike) -> tuple[tuple[bytes, bytes], ...]:
  """Reads pairs of words, one pair a line, with a tab or spaces between them.

  Raises:
    errors.UserError: No such file, or a line that is no pair.
  """
  path = epath.Path(path).expanduser()
  if not path.exists():
    raise errors.UserError(f"{path}: nothing there.")
  pairs = []
  for number, line in enumerate(path.read_bytes().splitlines(), 1):
    pair = line.split(b"\t") if b"\t" in line else line.split()
    if len(pair) not in (0, 2):
      raise errors.UserError(
          f"{path}, line {number}: {line[:80]!r} is no pair of words.")
    pairs += [tuple(word.strip() for word in pair)] if pair else []
  return tuple(pairs)


def by_token(vectors: Vectors, tokens: Sequence[bytes]) -> np.ndarray:
  """The vector of each token that the file itself holds.

  The file may spell a token as its text, with U+2581 for spaces, as byte-level BPE
  does, or, in a file of plain words, without the spaces around it; the first of
  these that it holds is taken.

  Returns:
    f32[V, D], zeros where there is none.
  """
  rows = _rows(vectors)
  found = (next((rows[s] for s in spellings(token) if s in rows), None)
           for token in tokens)
  return _stack(vectors, found, lambda row: vectors.values[row])


def spellings(token: bytes) -> Iterator[bytes]:
  """How a file may write a token; none for special ones."""
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
  """The sum of the vectors of each token's n-grams and of itself (Minixhofer et
  al., 2022), from a file that holds n-grams of characters.

  Returns:
    f32[V, D], zeros where the file has none of them.
  """
  rows = _rows(vectors)

  def parts(token):
    text = token.decode("utf-8", "ignore").strip()
    grams = {text[i:i + n] for n in sizes for i in range(len(text) - n + 1)} | {text}
    return [rows[g.encode()] for g in sorted(grams) if g.encode() in rows]

  return _stack(vectors, map(parts, tokens),
                lambda found: vectors.values[found].sum(0, np.float64))


def by_words(vectors: Vectors, pieces: vocabulary.Vocabulary) -> np.ndarray:
  """The mean vector of the words that each token is a piece of, by their frequency
  (Minixhofer et al., 2022), from a file of plain words.

  The file must have frequent words first, as such files do: the word of rank r
  counts 1 / r (Zipf). Words are cut as they stand after a space.

  Returns:
    f32[V, D], zeros for tokens that are in no word.
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

  Args:
    vectors: Those to rotate.
    onto: Those that stay, of the same width.
    pairs: A word of `vectors` and its translation in `onto`.

  Raises:
    errors.UserError: If fewer pairs than D are known on both sides: they would
      leave the rotation open.
  """
  width, other = vectors.values.shape[1], onto.values.shape[1]
  if width != other:
    raise errors.UserError(
        f"align: vectors of width {width} cannot be turned onto those of width"
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
  """The orthogonal R that makes |x R - y| least (Schönemann, 1966).

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
  """The path, if there are such files."""
  path = epath.Path(path).expanduser()
  if path.suffix not in (".vec", ".txt", ".npy"):
    raise errors.UserError(
        f"{path}: vectors are word2vec text (.vec), GloVe's (.txt), or an array"
        " (.npy) with a list of its words.")
  if (path.suffix == ".npy") != (words is not None):
    raise errors.UserError(
        f"{path}: a .npy file needs words=, the file with its list of words; a .vec"
        " or .txt file holds its own.")
  for file in (path, words and epath.Path(words).expanduser()):
    if file and not file.exists():
      raise errors.UserError(f"{file}: nothing there.")
  return path


def _lines(
    path: epath.Path, count: int, width: int
) -> Iterator[tuple[int, bytes, list[bytes]]]:
  """The first `count` lines: number, word, and the word's numbers as spelled."""
  headed, done = path.suffix == ".vec", 0
  with path.open("rb") as file:
    if headed:
      file.readline()
    for number, line in enumerate(file, 1 + headed):
      if done == count:
        break
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
  words, values = [], []  # Grown: a wrong first line must not ask for all memory.
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
  try:
    with path.open("rb") as file:
      values = np.load(file, allow_pickle=False)  # A pickle would run code.
  except (ValueError, EOFError) as error:
    raise errors.UserError(f"{path}: no array of numbers ({error}).") from error
  if values.ndim != 2 or values.dtype.kind not in "fiu":
    raise errors.UserError(
        f"{path}: {values.dtype}{list(values.shape)} is no table of numbers[N, D].")
  listed = _read_words(words)
  if len(listed) != len(values):
    raise errors.UserError(
        f"{words}: {len(listed)} words for the {len(values)} rows of {path}.")
  return Vectors(words=tuple(listed[:limit]), values=values[:limit].astype(np.float32))


def _read_words(path: epath.Path) -> list[bytes]:
  data = path.read_bytes()
  if path.suffix != ".json":
    lines = data.replace(b"\r\n", b"\n").split(b"\n")
    return lines[:-1] if lines[-1] == b"" else lines
  try:
    listed = json.loads(data)
  except ValueError as error:
    raise errors.UserError(f"{path}: no JSON ({error}).") from error
  if not isinstance(listed, list) or not all(isinstance(w, str) for w in listed):
    raise errors.UserError(f"{path}: no JSON list of words.")
  return [word.encode() for word in listed]


def _rows(vectors: Vectors) -> dict[bytes, int]:
  """The first row of each word."""
  return {word: row for row, word in reversed(list(enumerate(vectors.words)))}


def _stack(
    vectors: Vectors, found: Iterable, value_fn: Callable[..., np.ndarray]
) -> np.ndarray:
  """f32[V, D]: `value_fn` of what was found for each token, zeros for None or []."""
  empty = np.zeros(vectors.values.shape[1], np.float32)
  return np.stack([empty if one is None or one == [] else value_fn(one)
                   for one in found]).astype(np.float32)
