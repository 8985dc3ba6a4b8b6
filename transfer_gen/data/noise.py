"""Texts become pairs of a corrupted text and what restores it, anew in each epoch.

All that is drawn for a row comes from a generator of its own, whose key is made of the
seed, the document, where the row begins in it, and the epoch. So neither devices, nor
the batch that a row is in, nor a resumption change it.

Axes: N rows, B rows of a batch, T positions, L tokens of a text.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import corruption
from transfer_gen.data import encoding as encoding_lib
from transfer_gen.data import rows as rows_lib

_DENSITY = {"infilling": 0.3}  # BART's; all others are T5's and BERT's, 0.15.
_ENDS = (b".", b"!", b"?", "\u3002".encode(), b"\n")  # Of a sentence.
_MASKS = ("<mask>", "[MASK]")
# First numbers of keys: what is drawn for training, in evaluation and for a decoder.
_TRAIN, _FIXED, _DROPPED = range(3)
SPANS = "spans"


@dataclasses.dataclass(frozen=True)
class Noise:
  """How the rows of a run are corrupted.

  Attributes:
    encoding: How texts become tokens; `corrupt` and `length` of its config are read.
  """
  encoding: encoding_lib.Encoding

  @property
  def config(self) -> config_lib.Corrupt:
    """What is done to texts."""
    return self.encoding.config.corrupt

  def check(self) -> None:
    """Raises a `UserError` that names the tokens that are missing."""
    kinds = self.config.noise
    if self.config.stretch or self.config.drop_points:
      raise errors.UserError(
          "data.corrupt: stretch and drop_points are for drawings, and these are texts."
          " Leave them out, or choose tokenizer.kind=strokes.")
    if kinds and self.encoding.reader is not self.encoding.tokenizer:
      raise errors.UserError(
          "data.corrupt.noise: inputs and targets are the same texts, and the tokenizer"
          " reads inputs with tokens of their own. Choose a tokenizer of one side.")
    if kinds and (room := self.encoding.config.length - self._marks) < 1:
      raise errors.UserError(
          f"data.corrupt.noise: of data.length={self.encoding.config.length} tokens"
          f" {self._marks} are marks of the encoder's input, which leaves {room} for a"
          " text. Raise data.length.")
    if {"masking", "infilling"} & set(kinds) and self.mask is None:
      raise errors.UserError(
          f"data.corrupt.noise={kinds}: the tokenizer has no mask"
          f" ({' or '.join(_MASKS)}). Set tokenizer.sentinels, which adds one, or"
          " choose another kind of noise.")
    if self.config.word_dropout and self.unknown is None:
      raise errors.UserError(
          "data.corrupt.word_dropout: the tokenizer has neither an unknown token nor a"
          " mask. Set tokenizer.sentinels, which adds a mask.")
    if SPANS in kinds:
      # One more ends what the decoder writes.
      needed, found = 1 + corruption.noise_counts(
          self.longest, self._density(SPANS), self.config.mean_span)[1], len(
              self.sentinels)
      if (missing := needed - found) > 0:
        raise errors.UserError(
            f"data.corrupt.noise: spans of texts of up to {self.longest} tokens need"
            f" {needed} sentinels (<extra_id_0> and so on), and the tokenizer has"
            f" {found}: {missing} {'is' if missing == 1 else 'are'} missing. Set"
            f" tokenizer.sentinels={needed}, lower data.length, or raise"
            " data.corrupt.mean_span.")

  @functools.cached_property
  def mask(self) -> int | None:
    """Id of the mask, None if there is none."""
    special = self.encoding.tokenizer.special
    return next((special[name] for name in _MASKS if name in special), None)

  @property
  def unknown(self) -> int | None:
    """Id of what stands for a dropped token."""
    return self.encoding.tokenizer.roles.get("unk", self.mask)

  @functools.cached_property
  def sentinels(self) -> list[int]:
    """Ids of the sentinels, in order."""
    special, found = self.encoding.tokenizer.special, []
    while (row := special.get(f"<extra_id_{len(found)}>")) is not None:
      found.append(row)
    return found

  @functools.cached_property
  def longest(self) -> int:
    """The largest number of tokens of a text that both sides of a row hold."""
    length, marks = self.encoding.config.length, self._marks
    if SPANS not in self.config.noise:
      return min(length - marks, length - 1)
    # Sentinels are fewer than what they stand for, so texts may be longer than rows.
    for count in range(2 * length, 1, -1):
      noise, spans = corruption.noise_counts(
          count, self._density(SPANS), self.config.mean_span)
      if count - noise + spans + marks <= length and noise + spans + 1 < length:
        return count
    return 1

  def pair(self, ids: np.ndarray, key: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns what the encoder reads of a text, and what the decoder writes.

    Args:
      ids: The text, i32[L], at most `longest` tokens.
      key: What is drawn.
    """
    generator, mean = np.random.default_rng(key), self.config.mean_span
    read, written = ids, ids
    for kind in self.config.noise:
      density = self._density(kind)
      if kind == "sentences":
        read = corruption.permuted(read, self._ends, generator)
      elif kind == "deletion":
        read = corruption.deleted(read, density, generator)
      elif kind == "masking":
        read = corruption.masked(read, density, self._mask, generator)
      elif kind == "infilling":
        read = corruption.infilled(read, density, mean, self._mask, generator)
      elif kind == SPANS:
        noise = corruption.noise_spans(len(ids), density, mean, generator)
        read, written = corruption.span_corrupted(ids, noise, self.sentinels)
    return read, written

  def lay_out(
      self, texts: rows_lib.Texts) -> tuple[list[rows_lib.Rows], np.ndarray]:
    """Lays out texts in rows, a long one in several, corrupted as in every evaluation.

    Returns:
      Rows of one length, with the texts in `clean`; and bool[N], which texts they
      contain: all that have a token.
    """
    starts = [(document, start) for document, ids in enumerate(texts)
              for start in range(0, len(ids), self.longest)]
    pieces = [texts[document][start:start + self.longest] for document, start in starts]
    rows = self._rows([self.pair(ids, (_FIXED, *begin)) for ids, begin in zip(
        pieces, starts)])
    documents, begins = np.array(starts, np.int32).reshape(-1, 2).T
    clean = np.full((len(pieces), self.longest), -1, np.int32)
    for row, ids in enumerate(pieces):
      clean[row, :len(ids)] = ids
    rows = dataclasses.replace(
        rows, clean=clean, starts=begins,
        documents=np.where(rows.documents < 0, -1, documents[:, None]))
    return [rows], np.array([len(ids) > 0 for ids in texts], bool)

  def batch(self, rows: rows_lib.Rows, seed: int, picked: np.ndarray) -> rows_lib.Batch:
    """Returns rows as training reads them.

    Args:
      rows: The rows of one length.
      seed: Seed of the run.
      picked: i64[B, 2], the epoch and the number of each row.
    """
    if rows.corrupted:
      batch = self._rows(self._pairs(
          rows.take(picked[:, 1]), seed, picked[:, 0])).batch(np.arange(len(picked)))
    else:
      batch = rows.batch(picked[:, 1])
    if self.config.word_dropout:
      batch["inputs"] = self._dropped(batch, rows, seed, picked)
    return batch

  def _pairs(self, taken, seed, epochs):
    for i, epoch in enumerate(epochs.tolist()):
      ids = taken.clean[i]
      yield self.pair(ids[ids >= 0], (
          _TRAIN, seed, int(taken.documents[i].max()), int(taken.starts[i]), epoch))

  def _dropped(self, batch, rows, seed, picked) -> np.ndarray:
    """Returns inputs of which a share is replaced by the unknown token."""
    # A copy: joined rows are views of one array.
    inputs, counts = batch["inputs"].copy(), batch["weights"] > 0
    # Only what a decoder was to write before: no prompt, and no beginning of a text.
    written = np.zeros(inputs.shape, bool)
    written[:, 1:] = counts[:, :-1]
    if "positions" in batch:
      written &= batch["positions"] > 0
    written &= ~np.isin(inputs, list(self.encoding.roles.values()))
    length = inputs.shape[1]
    chances = np.stack([
        np.random.default_rng((_DROPPED, seed, length, row, epoch)).random(length)
        for epoch, row in picked.tolist()])
    inputs[written & (chances < self.config.word_dropout)] = self.unknown
    return inputs

  def _rows(self, pairs) -> rows_lib.Rows:
    pairs = list(pairs)
    encoding = self.encoding
    assert encoding.encoder is not None
    (rows,), kept = rows_lib.pad_both(
        [read for read, _ in pairs], [written for _, written in pairs], encoding.roles,
        [encoding.config.length], encoding.encoder, encoding.encoder_roles)
    assert kept.all(), "texts are cut to `longest`"
    return rows

  @property
  def _marks(self) -> int:
    """Number of special tokens around the encoder's input."""
    encoding = self.encoding
    assert encoding.encoder is not None
    return len(rows_lib.encoder_row([], encoding.encoder_roles, encoding.encoder))

  def _density(self, kind: str) -> float:
    return self.config.density or _DENSITY.get(kind, 0.15)

  @property
  def _mask(self) -> int:
    assert self.mask is not None, "checked"
    return self.mask

  @functools.cached_property
  def _ends(self) -> frozenset[int]:
    """Ids of tokens that end a sentence."""
    return frozenset(i for i, surface in enumerate(self.encoding.tokenizer.tokens)
                     if surface.rstrip(b" ").endswith(_ENDS))


def build(encoding: encoding_lib.Encoding) -> Any:
  """Returns a `Noise`, or what changes drawings; None if the config asks for neither.

  Raises:
    errors.UserError: If the tokenizer lacks a token that it needs.
  """
  if encoding.config.corrupt == config_lib.Corrupt():
    return None
  # Not all kinds of tokenizers have the method: that of drawings has.
  if of_drawings := getattr(encoding.tokenizer, "noise", None):
    return of_drawings(encoding.config.corrupt)
  noise = Noise(encoding)
  noise.check()
  return noise
