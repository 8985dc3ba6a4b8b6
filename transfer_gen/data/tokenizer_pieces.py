"""Tokenizers made of others: of two languages, of two sides, with marks for noise."""

from collections.abc import Iterable, Mapping, Sequence
import functools
import json
import re
from typing import Any

from etils import epath

from transfer_gen import errors
from transfer_gen import sealed
from transfer_gen.data import tokenizer_kinds as kinds

KIND, BOTH, MARKED = "pieces", "both_sides", "marked"
SIDES = ("inputs", "targets")  # Folders of a saved `BothSides`.
FILES = ("source.spm", "target.spm", "vocab.json")
_LANGUAGE = re.compile(r">>.+?<<")


class Pieces:
  """A SentencePiece model whose pieces have the ids of a shared vocabulary.

  The tokenizers of Marian are of this kind: one model for each side, and one vocabulary
  for both. `tokenizers.Tokenizer` says what each method does.

  Attributes:
    for_encoder: The tokenizer for an encoder's inputs, with the same ids. The object
      itself is the tokenizer of the answers.
  """

  def __init__(self, model: bytes, ids: Mapping[str, int], read: bytes | None = None):
    """Initializes the tokenizer of one side.

    Args:
      model: The SentencePiece model of this side, as bytes.
      ids: Id of each piece, for both sides.
      read: The model of the encoder's side; if None, that of this side.

    Raises:
      errors.UserError: If `ids` has no `<unk>` or an id below 0.
    """
    import sentencepiece  # Here, because only this kind needs it.
    self._model, self._ids, self._read = model, dict(ids), read or model
    self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    self.roles = kinds.usual_roles(self._ids.get)
    if "unk" not in self.roles or min(self._ids.values()) < 0:
      raise errors.UserError(
          "vocab.json: <unk> is missing, or an id is below 0. Convert the tokenizer"
          " again.")
    kinds.check_gaps(max(self._ids.values()) + 1, len(self._ids))
    # Not the number of pieces: ids may have gaps, and tables have a row for each id.
    self.size = max(self._ids.values()) + 1
    self._pieces = {i: piece for piece, i in self._ids.items()}
    self.special = {
        piece: i for piece, i in self._ids.items()
        if i in self.roles.values() or _LANGUAGE.fullmatch(piece)}
    self.tokens = tuple(self._surface(i) for i in range(self.size))

  @functools.cached_property
  def for_encoder(self) -> "Pieces":
    return Pieces(self._read, self._ids)

  @kinds.as_user_errors()
  def encode(self, text: str) -> list[int]:
    pieces, unk = self._split(text), self.roles["unk"]
    ids = [self._ids.get(piece, unk) for piece in pieces]
    # A prompt must not lose characters in silence. For training texts
    # `encode_batch` lets them pass as unk, and `pipeline.prepare` counts them.
    kinds.refuse_unknown(text, {
        c for i, piece in zip(ids, pieces) if i == unk for c in piece})
    return ids

  @kinds.as_user_errors()
  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    unk = self.roles["unk"]
    return [[self._ids.get(piece, unk) for piece in self._split(text)]
            for text in texts]

  @kinds.as_user_errors()
  def decode(self, ids: Iterable[int]) -> str:
    special = set(self.roles.values())
    return self._processor.decode_pieces(
        [self._pieces.get(int(i), "") for i in ids if i not in special])

  def within(self, rows: int) -> "Pieces":
    """Returns the tokenizer without the pieces whose id is `rows` or more."""
    ids = {piece: i for piece, i in self._ids.items() if i < rows}
    return Pieces(self._model, ids, self._read)

  def save(self, folder: epath.Path) -> None:
    kinds.write_kind(folder, {"kind": KIND})
    vocabulary = json.dumps(self._ids).encode("utf-8")
    for name, data in zip(FILES, (self._read, self._model, vocabulary)):
      (folder / name).write_bytes(data)

  def _split(self, text):
    """Returns the pieces of a text.

    A target language at its beginning (`>>fra<<`) is a piece of its own, which the
    SentencePiece model does not know and would split.
    """
    language = _LANGUAGE.match(text)
    if language is None or language[0] not in self._ids:
      return self._processor.encode(text, out_type=str)
    rest = self._processor.encode(text[language.end():], out_type=str)
    return [language[0], *rest]

  def _surface(self, i):
    piece = self._pieces.get(i, "")
    if i in self.roles.values() or _LANGUAGE.fullmatch(piece):
      return b""
    # SentencePiece writes a space as U+2581.
    return piece.replace("\u2581", " ").encode("utf-8")


class BothSides:
  """Two tokenizers: one for an encoder's inputs, one for the targets.

  Each side has ids of its own. `tokenizers.Tokenizer` says what each method does.

  Attributes:
    for_encoder: The tokenizer for an encoder's inputs. The object itself is the
      tokenizer of the targets.
  """

  def __init__(self, inputs: Any, targets: Any):
    """Initializes from the tokenizers of both sides, which have one side each."""
    self.for_encoder, self._targets = inputs, targets
    self.size, self.tokens = targets.size, targets.tokens
    self.roles, self.special = targets.roles, targets.special

  def encode(self, text: str) -> list[int]:
    return self._targets.encode(text)

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    return self._targets.encode_batch(texts)

  def decode(self, ids: Iterable[int]) -> str:
    return self._targets.decode(ids)

  def save(self, folder: epath.Path) -> None:
    kinds.write_kind(folder, {"kind": BOTH})
    for name, side in zip(SIDES, (self.for_encoder, self._targets)):
      side.save(folder / name)


class Marked:
  """A tokenizer of ours with the special tokens that noise puts into texts.

  They come after its own tokens, whose ids stay: `<mask>`, `<extra_id_0>` and so on.
  `tokenizers.Tokenizer` says what each method does.
  """

  def __init__(self, own: Any, sentinels: int):
    """Adds `sentinels` sentinels, at least 1, to a tokenizer of bytes or characters."""
    self._own, self._sentinels = own, sentinels
    names = mark_names(sentinels)
    self.roles = own.roles
    self.special = {**own.special, **{
        name: own.size + i for i, name in enumerate(names)}}
    self.tokens = own.tokens + (b"",) * len(names)
    self.size = len(self.tokens)

  def encode(self, text: str) -> list[int]:
    return self._own.encode(text)

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    return self._own.encode_batch(texts)

  def decode(self, ids: Iterable[int]) -> str:
    return self._own.decode(i for i in ids if i < self._own.size)

  def save(self, folder: epath.Path) -> None:
    kinds.write_kind(folder, {"kind": MARKED, "sentinels": self._sentinels})
    self._own.save(folder / MARKED)


def mark_names(sentinels: int) -> list[str]:
  """Returns the spellings of the tokens that noise needs; none for 0 sentinels."""
  return ["<mask>", *(f"<extra_id_{i}>" for i in range(sentinels))] if sentinels else []


def load(folder: epath.Path) -> Pieces:
  """Loads a tokenizer from a folder that holds `FILES`.

  Raises:
    errors.UserError: If `vocab.json` does not map pieces to ids.
  """
  read, written = (sealed.read(folder / name) for name in FILES[:2])
  ids = sealed.read_json(folder / FILES[2])
  # `type` and not `isinstance`, for which JSON's true and false are ints as well.
  if not all(type(i) is int for i in ids.values()):
    raise errors.UserError(f"{folder / FILES[2]}: an id is not a whole number.")
  loaded = Pieces(written, ids, read)
  _ = loaded.for_encoder  # Made now, so that damage to its file shows here.
  return loaded
