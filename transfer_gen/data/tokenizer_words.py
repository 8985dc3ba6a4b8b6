r"""Words by the rules of fastai, as its language models read them.

A text becomes words in lower case, with marks before them: `xxmaj` before a word that
begins with a capital, `xxup` before one in capitals, `xxrep 4 !` for a character four
times in a row, `xxwrep 3 so` for a word three times. fastai lets spaCy split the text
that these rules make, and spaCy's many exceptions are not repeated here: words are
letters and digits, numbers keep their points and commas, contractions such as `n't` and
`'s` are split off as spaCy does in English, and each other character stands alone. So
abbreviations (`u.s.`), addresses and emoticons come out in other pieces than in fastai.
"""

import collections
from collections.abc import Iterable, Sequence
import itertools
import re

from etils import epath

from transfer_gen import errors
from transfer_gen.data import tokenizer_kinds as kinds

KIND = "words"
UNK, PAD, BOS = "xxunk", "xxpad", "xxbos"
_REP, _WREP, _UP, _MAJ = "xxrep", "xxwrep", "xxup", "xxmaj"
# In the order in which fastai puts them at the beginning of a vocabulary.
SPECIAL = (UNK, PAD, BOS, "xxeos", "xxfld", _REP, _WREP, _UP, _MAJ)
# What fastai fills a vocabulary with up to a multiple of 8 rows.
FILLING = "xxfake"
_LEAST = 3  # How often a word must occur to get a row, as in fastai.

_CONTRACTION = r"'(?:s|m|re|ve|ll|d)\b"
_PIECES = re.compile(
    rf"\n+|\w+?(?=n't\b)|n't\b|{_CONTRACTION}|\d+(?:[.,]\d+)*(?!\w)|\w+|[^\w\s]")
_GLUED = re.compile(rf"n't|{_CONTRACTION}|[.,;:!?)\]}}%]|\n+")
_OPENING = frozenset("([{\n")
_TIMES = re.compile(r"(\S)\1{2,}")
# A word three times or more, each behind white space.
_WORDS = re.compile(r"(?<!\S)(\w+)(?:\s+\1){2,}(?!\w)")
_APART = re.compile(r"[/#\\]")
# A text that spells a special token does not become that token.
_SPELLED = re.compile(rf"\bxx(?=(?:{'|'.join(w[2:] for w in SPECIAL)})\b)", re.I)
_MOST = 1000  # Times that a character or a word is repeated in a text that is written.


class Words:
  """One token for each word.

  Texts end where the next one begins, with `xxbos`: fastai trains no `xxeos`, so that
  is a special token without a role.

  Attributes:
    NOTE: What the user reads about it.
  """
  NOTE = ("words are split by rules of this package and not by spaCy, as fastai does:"
          " abbreviations, addresses and emoticons come out in other pieces. HTML stays"
          " as it is.")

  def __init__(self, words: Sequence[str | None]):
    """Initializes from the word of each row.

    Args:
      words: With None for rows without text.

    Raises:
      errors.UserError: If `xxunk` is not among them, or a word is no text.
    """
    if UNK not in words or not all(w is None or isinstance(w, str) for w in words):
      raise errors.UserError(
          f"a vocabulary of words is a list of texts with {UNK} among them.")
    self._words = tuple(words)
    self._ids = {w: i for i, w in reversed([*enumerate(words)]) if w is not None}
    self.special = {w: self._ids[w] for w in SPECIAL if w in self._ids}
    self.roles = {role: self._ids[word] for role, word in (
        ("unk", UNK), ("pad", PAD), ("bos", BOS)) if word in self._ids}
    marks = set(self.special.values())
    self.tokens = tuple(
        b"" if w is None or i in marks else _surface(w) for i, w in enumerate(words))
    self.size = len(words)

  def encode(self, text: str) -> list[int]:
    words = self._split(text)
    unknown = [w for w in dict.fromkeys(words) if w not in self._ids]
    if unknown:
      raise errors.UserError(
          f"{len(unknown)} words are outside the tokenizer's vocabulary:"
          f" {', '.join(map(repr, unknown[:10]))}{' ...' if unknown[10:] else ''}."
          " Write the text with other words.")
    return [self._ids[w] for w in words]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    unk = self.roles["unk"]
    return [[self._ids.get(w, unk) for w in self._split(text)] for text in texts]

  def decode(self, ids: Iterable[int]) -> str:
    hidden = {self.special.get(w) for w in SPECIAL if w not in (_REP, _WREP, _UP, _MAJ)}
    words = (self._words[i] for i in ids if i < self.size and i not in hidden)
    return _joined([w for w in words if w is not None])

  def itos(self) -> list[str]:
    """Returns the word of each row, as fastai keeps them."""
    return [FILLING if word is None else word for word in self._words]

  def save(self, folder: epath.Path) -> None:
    kinds.write_kind(folder, {"kind": KIND, "words": self._words})

  # A vocabulary of an early version may lack a mark, and was then trained without it.
  def _split(self, text):
    return [w for w in split(text) if w not in SPECIAL or w in self._ids]


def train(size: int, texts: Iterable[str]) -> Words:
  """Returns a tokenizer of the most frequent words of texts.

  Args:
    size: Largest number of rows, special tokens included.
    texts: Words that occur less than three times in them get no row.
  """
  counts = collections.Counter(itertools.chain.from_iterable(map(split, texts)))
  # Of words that occur equally often, the alphabet decides, and not the order of texts.
  ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
  words = [w for w, count in ranked if count >= _LEAST and w not in SPECIAL]
  return Words((*SPECIAL, *words)[:max(size, len(SPECIAL))])


def split(text: str) -> list[str]:
  """Returns the words and marks of a text.

  >>> split("Don't SHOUT so so so loud!!!!")[:9]
  ['xxmaj', 'do', "n't", 'xxup', 'shout', 'xxwrep', '3', 'so', 'loud']
  """
  text = _SPELLED.sub("xx ", text)
  text = _TIMES.sub(lambda m: f" {_REP} {len(m[0])} {m[1]} ", text)
  text = _WORDS.sub(lambda m: f" {_WREP} {len(m[0].split())} {m[1]} ", text)
  text = _APART.sub(lambda m: f" {m[0]} ", text)
  # Chunks between spaces decide about capitals, with the punctuation in them.
  return [word for chunk in re.split(r"(\s+)", text)
          for word in (*_mark(chunk), *_PIECES.findall(chunk.lower()))]


def _mark(chunk: str) -> tuple[str, ...]:
  """Returns the mark of a chunk's capitals, if it has one; a letter alone has none."""
  if len(chunk) < 2 or not "A" <= chunk[0] <= "Z":
    return ()
  if not re.search("[a-z]", chunk):
    return (_UP,)
  return () if re.search("[A-Z]", chunk[1:]) else (_MAJ,)


def _surface(word: str) -> bytes:
  return (word if _GLUED.fullmatch(word) else f" {word}").encode("utf-8")


def _joined(words: Sequence[str]) -> str:
  """Returns the text of words and marks; spaces stand where English has them."""
  out: list[str] = []
  mark, loud, count = "", False, []
  for word in words:
    if word in (_UP, _MAJ):
      mark = word
    elif word in (_REP, _WREP):
      count = [word]
    elif len(count) == 1 and word.isdecimal() and int(word) <= _MOST:
      count.append(word)
    else:
      # Capitals go on in a contraction, which was one chunk with its word.
      loud = mark == _UP or (loud and (word[0] == "'" or word == "n't"))
      shown = word.upper() if loud else word.capitalize() if mark else word
      if len(count) == 2:
        more = [word] * (int(count[1]) - 1)
        shown = (" " if count[0] == _WREP else "").join([shown, *more])
      near = not out or _GLUED.fullmatch(word) or out[-1][-1:] in _OPENING
      out += [shown] if near else [" ", shown]
      mark, count = "", []
  return "".join(out)
