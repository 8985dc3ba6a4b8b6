"""Aligns the tokens of two tokenizers over one text.

It finds where both have read the same bytes, and which tokens of one stand for those of
the other.

Axes: N tokens of a text; V tokens of a vocabulary, S those of the other; B rows, T
positions, U positions of the other's rows.
"""

from collections.abc import Iterator, Sequence
import difflib

import numpy as np

from transfer_gen.data import tokenizers

_SPACES = frozenset(b" \t\n\r")
_ROUND = 32  # Lengths of the other's rows are multiples of it: few programs compile.


def ends(
    tokenizer: tokenizers.Tokenizer, ids: Sequence[int], text: bytes) -> np.ndarray:
  """Returns where each token of a text ends, in bytes.

  A token stands for bytes of text, so ends add up; each byte of a character counts. If
  the bytes of the tokens are not the text itself (a tokenizer may put a space before
  it, or normalize it), the two are matched, and a token that ends in an unmatched part
  has no end.

  Args:
    tokenizer: The tokenizer that made the ids.
    ids: i32[N], without special tokens.
    text: The text that was tokenized.

  Returns:
    i64[N], increasing, -1 for tokens without an end.
  """
  surfaces = [tokenizer.tokens[i] for i in ids]
  spelled = b"".join(surfaces)
  offsets = np.cumsum([len(surface) for surface in surfaces], dtype=np.int64)
  # The two usual cases need no matching. The matching of the third is quadratic in the
  # worst case.
  if spelled == text:
    found = offsets
  elif spelled == b" " + text:
    found = offsets - 1
  else:
    found = _places(spelled, text)[offsets]
  # A special token stands for no bytes, so it ends nothing, although the sum of lengths
  # gives it the end of the token before it.
  found = np.where([bool(surface) for surface in surfaces], found, -1)
  return np.where(found == 0, -1, found)  # Nothing was read yet.


def teacher_rows(
    inputs: np.ndarray, student: tokenizers.Tokenizer, teacher: tokenizers.Tokenizer,
    longest: int | None, positions: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Turns rows of one tokenizer into rows of another.

  The text of a row is cut at its special tokens, and each of those stands for the one
  of the same role. Bytes of a character that a row cuts in two are left out. Both
  models have read the same where both have a token that ends after the same byte of
  the same stretch, or a special token. Only there may their next-token predictions be
  compared.

  Args:
    inputs: i32[B, T], ids of `student`.
    student: The tokenizer of the rows.
    teacher: The other tokenizer.
    longest: Largest number of positions that its model reads. None means no limit.
    positions: i32[B, T], for rows that hold several documents: the number of inputs
      before each one that belong to the same document.

  Returns:
    i32[B, U], ids of `teacher`, padded on the right; i32[B, T], the position of the
    teacher that has read the same as this position, or -1; and i32[B, U], the
    `positions` of the teacher's rows.
  """
  rows, places = [], np.full(inputs.shape, -1, np.int32)
  theirs, _ = tokenizers.resolve_roles(teacher)
  # Reversed, so that the first role wins where one token has several.
  own = {i: role for role, i in reversed(list(student.roles.items()))}
  if positions is None:
    positions = np.broadcast_to(np.arange(inputs.shape[1]), inputs.shape)
  stretches = [list(_stretches(row.tolist(), student, {*np.flatnonzero(place == 0)}))
               for row, place in zip(inputs, positions)]
  # One call for all stretches of the batch: those of Hugging Face encode many texts in
  # parallel. The loop below must then take one result per stretch, in the same order.
  encoded = iter(teacher.encode_batch(
      [text.decode() for found in stretches for _, _, text, _ in found]))
  for row, found in enumerate(stretches):
    ids: list[int] = []
    begins = [0]  # Of the documents among the teacher's ids.
    for start, tokens, text, skipped in found:
      if positions[row, start] == 0:
        begins.append(len(ids))
      if len(tokens) == 1 and not student.tokens[tokens[0]]:
        # The text of a special token is empty, and its encoding is dropped to stay in
        # step.
        next(encoded)
        # Padding is left out of the teacher's row, where it would take positions from
        # text.
        if (role := own.get(tokens[0])) in theirs and role != "pad":
          places[row, start] = len(ids)
          ids.append(theirs[role])
        continue
      mine = ends(student, tokens, b"".join(student.tokens[i] for i in tokens))
      pieces = next(encoded)
      # Where several tokens end after the same byte, the last one has read it all.
      at = {end: len(ids) + i for i, end in enumerate(
          ends(teacher, pieces, text).tolist()) if end >= 0}
      places[row, start:start + len(tokens)] = [
          # The bytes that were left out at the beginning do not exist in the teacher's
          # text.
          at.get(end - skipped, -1) for end in mine.tolist()]
      ids += pieces
    rows.append((ids[:longest], begins))
  width = max(len(ids) for ids, _ in rows)
  # Rounded up so that few shapes reach `jit`, but never beyond what the model can read.
  width = min(-(-width // _ROUND) * _ROUND, longest or width + _ROUND)
  out = np.full((len(rows), width), theirs.get("pad", 0), np.int32)
  first = np.zeros_like(out)  # Where the document of each id begins.
  for row, starts, (ids, begins) in zip(out, first, rows):
    row[:len(ids)] = ids
    begins = [begin for begin in begins if begin < width]
    starts[begins] = begins
  first = np.maximum.accumulate(first, axis=1)
  # Positions beyond `longest` were cut from the teacher's row.
  return (out, np.where(places < width, places, -1),
          np.arange(width, dtype=np.int32)[None] - first)


def nearest(
    source: tokenizers.Tokenizer, target: tokenizers.Tokenizer) -> np.ndarray:
  """Finds the nearest token of the other vocabulary for each token.

  The distance is the number of edits (MinED: Wan et al., 2024, section 3.3), in bytes
  (Levenshtein, 1966). The first of equally near tokens is taken, and special tokens are
  matched by role.

  Returns:
    i32[V], tokens of `target`; -1 for special tokens that it does not have.
  """
  # Reversed, so that the first of several tokens with the same bytes wins.
  known = {surface: i for i, surface in reversed(list(enumerate(target.tokens)))
           if surface}
  roles = {i: role for role, i in source.roles.items()}
  index = np.full(len(source.tokens), -1, np.int32)
  search = _Search(list(known), np.array(list(known.values()), np.int32))
  for i, surface in enumerate(source.tokens):
    if not surface:
      index[i] = target.roles.get(roles.get(i, ""), -1)
    else:
      index[i] = known[surface] if surface in known else search(surface)
  return index


def distances(surface: bytes, others: Sequence[bytes]) -> np.ndarray:
  """Computes the Levenshtein distance of one token to many, i64[len(others)]."""
  lengths = np.array([len(other) for other in others])
  # All candidates advance together, one byte of `surface` at a time. Padding of shorter
  # ones is harmless: the distance to a candidate is read at its own length, and no cell
  # depends on one to its right.
  table = np.zeros((len(others), max(lengths, default=0)), np.uint8)
  for row, other in zip(table, others):
    row[:len(other)] = np.frombuffer(other, np.uint8)
  steps = np.arange(table.shape[1] + 1)
  before = np.broadcast_to(steps, (len(others), len(steps))).copy()
  for number, byte in enumerate(surface, 1):
    # Of a replaced or deleted byte; then of inserted ones, from the left on.
    after = np.full_like(before, number)
    after[:, 1:] = np.minimum(before[:, :-1] + (table != byte), before[:, 1:] + 1)
    # An insertion costs 1 per byte to the right, so subtracting the column number turns
    # the sequential minimum along a row into a running minimum, which NumPy has.
    before = np.minimum.accumulate(after - steps, axis=1) + steps
  return before[np.arange(len(others)), lengths]


class _Search:
  """Tokens among which the nearest to another one is searched."""

  def __init__(self, surfaces: Sequence[bytes], ids: np.ndarray):
    order = np.argsort(ids, kind="stable")
    self._surfaces = [surfaces[i] for i in order]
    self._ids = ids[order]
    self._lengths = np.array([len(surface) for surface in self._surfaces])
    self._counts = np.zeros((256, len(surfaces)), np.uint8)  # Of each byte.
    for column, surface in enumerate(self._surfaces):
      for byte in surface:
        self._counts[byte, column] += self._counts[byte, column] < 255

  def __call__(self, surface: bytes) -> int:
    """Returns the first of the nearest ones."""
    # Bytes that two tokens share, as multisets. An alignment cannot keep more bytes
    # than that, and each byte of the longer token that is not kept costs at least one
    # edit.
    common = np.zeros(len(self._surfaces), np.int64)
    for byte in set(surface):
      common += np.minimum(self._counts[byte], surface.count(byte))
    least = np.maximum(self._lengths, len(surface)) - common  # No distance is less.
    best = (np.inf, len(self._surfaces))
    # Candidates with the smallest bound come first. Once a bound exceeds the best
    # distance, the rest cannot win. Equal bounds are still looked at, because an equal
    # distance at a smaller id wins.
    for bound in np.unique(least):
      if bound > best[0]:
        break
      rows = np.flatnonzero(least == bound)
      found = distances(surface, [self._surfaces[row] for row in rows])
      best = min(best, (found.min(), rows[found.argmin()]))
    return int(self._ids[best[1]])


def _stretches(
    row: Sequence[int], tokenizer: tokenizers.Tokenizer, begins: set[int]
) -> Iterator[tuple[int, list[int], bytes, int]]:
  """Yields the special tokens of a row, and what stands between them.

  No part goes on where a document begins.

  Yields:
    Where the part starts, its tokens, its text up to the last whole character, and how
    many bytes of a cut character were left out at its beginning.
  """
  special = lambda i: not tokenizer.tokens[i]
  start = 0
  while start < len(row):
    stop = start + 1
    while not special(row[start]) and stop < len(row) and stop not in begins and (
        not special(row[stop])):
      stop += 1
    tokens = list(row[start:stop])
    text = b"".join(tokenizer.tokens[i] for i in tokens)
    yield start, tokens, *_whole(text)
    start = stop


def _whole(text: bytes) -> tuple[bytes, int]:
  """Returns a text without cut characters, and how many bytes its beginning lost."""
  # Bytes 10xxxxxx continue a character of UTF-8. A row may begin within a character,
  # whose first bytes the row before it has. A character has at most four bytes.
  skipped = next((i for i, byte in enumerate(text[:4]) if byte & 0xC0 != 0x80),
                 min(len(text), 4))
  try:
    return text[skipped:].decode().encode(), skipped
  except UnicodeDecodeError as error:
    # Most often the row ends within a character, whose last bytes are in the next row.
    return text[skipped:skipped + error.start], skipped


def _places(spelled: bytes, text: bytes) -> np.ndarray:
  """Maps each byte offset of the tokens to that of the text, or -1.

  Returns:
    i64[len(spelled) + 1].
  """
  found = np.full(len(spelled) + 1, -1, np.int64)
  # The common beginning is walked byte by byte, where only white space may differ, as a
  # space that a tokenizer puts before a text. difflib, which is slow, sees only what
  # remains.
  i = j = found[0] = 0
  while i < len(spelled) and j < len(text):
    spaces = spelled[i] in _SPACES, text[j] in _SPACES
    if spelled[i] == text[j] or all(spaces):  # Normalised, a space may be another,
      found[i + 1] = j + 1
      i, j = i + 1, j + 1
    elif any(spaces):  # or none.
      i, j = i + spaces[0], j + spaces[1]
    else:
      break
  spelled, text = spelled[i:], text[j:]
  # Without `autojunk=False`, difflib ignores bytes that are frequent in texts of 200
  # bytes and more, which in text are nearly all.
  for a, b, size in difflib.SequenceMatcher(
      None, spelled, text, autojunk=False).get_matching_blocks():
    found[i + a + 1:i + a + size + 1] = np.arange(j + b + 1, j + b + size + 1)
  return found
