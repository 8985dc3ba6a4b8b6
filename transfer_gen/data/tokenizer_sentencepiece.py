"""Tokenizers of SentencePiece, with the tokens that were added to them later."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from transfer_gen.data import chat as chat_lib
from transfer_gen.data import tokenizer_kinds as kinds

KIND = "sentencepiece"


class SentencePiece:
  """A SentencePiece model; its own normalization may turn line ends into spaces.

  Attributes:
    added: Ids of tokens that are not in the model, by their spelling.
    special: Ids of its special tokens by their spelling.
    start_only: Whether a word begins only at the start of a text, and not also behind
      each token that divides it.
    chat: The chat template that came with it, if any.
  """

  def __init__(
      self, model: bytes, *, added: Mapping[str, int] | None = None,
      special: Iterable[str] = (), roles: Mapping[str, int] | None = None,
      start_only: bool = False):
    """Initializes the tokenizer.

    Args:
      model: The SentencePiece model.
      added: Ids of tokens that the model need not have, by their spelling.
      special: Spellings of special tokens, beside those that the model names so.
      roles: Ids of special tokens by role, by default those of the model.
      start_only: Whether a text that continues behind an added or special token gets
        no space in front, as in Llama's tokenizer of Transformers.
    """
    self.chat: chat_lib.Template | None = None
    import sentencepiece  # Here, because only this kind needs it.
    self._model = model
    self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    self.start_only = start_only
    without = _without_prefix(model) if start_only else model
    # What encodes and decodes a text that continues.
    self._continued = sentencepiece.SentencePieceProcessor(model_proto=without)
    # Where each part has a space in front, decoding drops it.
    self._between = " " if _parsed(without).normalizer_spec.add_dummy_prefix else ""
    processor = self._processor
    count = processor.get_piece_size()
    pieces = [processor.id_to_piece(i) for i in range(count)]
    self._ids = {piece: i for i, piece in enumerate(pieces)}
    self.added = {name: row for name, row in (added or {}).items()
                  if self._ids.get(name) != row}
    self.size = max([count, *(row + 1 for row in self.added.values())])
    kinds.check_gaps(self.size, count + len(self.added))
    controls = {name: i for name, i in self._ids.items() if processor.is_control(i)}
    self.special = controls | {
        name: row for name in special if (row := self.find(name)) is not None}
    own = {
        "pad": processor.pad_id(), "bos": processor.bos_id(),
        "eos": processor.eos_id(), "unk": processor.unk_id()}
    # An id of -1 means that the model has no such token. sep is none of its four, so it
    # is found by name, and for the others the model's word wins.
    self.roles = dict(roles) if roles is not None else {
        **kinds.usual_roles(controls.get), **{r: i for r, i in own.items() if i >= 0}}
    # Texts are divided at added tokens; special ones are text where a text spells them.
    self._plain = {
        name: row for name, row in self.added.items() if name not in self.special}
    surfaces = [*map(self._surface, range(count), pieces), *[b""] * (self.size - count)]
    for name, row in self.added.items():
      surfaces[row] = name.encode("utf-8") if name in self._plain else b""
    self.tokens = tuple(surfaces)

  @property
  def is_bpe(self) -> bool:
    """Whether the model merges pairs; otherwise it weighs pieces (Unigram)."""
    trainer = _parsed(self._model).trainer_spec
    return trainer.model_type == trainer.BPE

  def find(self, spelling: str) -> int | None:
    """Returns the id of a token by its spelling, None if there is none."""
    return self.added.get(spelling, self._ids.get(spelling))

  @kinds.as_user_errors()
  def encode(self, text: str) -> list[int]:
    # Both forms, because only pieces show which characters an unknown id stands for.
    unk, unknown, found = self.roles.get("unk"), set(), []
    for part, processor in self._parts(text, self._plain):
      if isinstance(part, int):
        found.append(part)
        continue
      ids = processor.encode(part, out_type=int)
      pieces = processor.encode(part, out_type=str)
      unknown |= {c for i, piece in zip(ids, pieces) if i == unk for c in piece}
      found += ids
    kinds.refuse_unknown(text, unknown)
    return found

  @kinds.as_user_errors()
  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    if not self._plain:  # In one call, which uses all cores.
      return self._processor.encode(list(texts), out_type=int)
    return [self._encoded(text, self._plain) for text in texts]

  @kinds.as_user_errors()
  def encode_marked(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of texts in which special tokens are spelled."""
    # SentencePiece itself reads them as text, so a text is divided at them.
    return [self._encoded(text, {**self._plain, **self.special}) for text in texts]

  @kinds.as_user_errors()
  def decode(self, ids: Iterable[int]) -> str:
    special = set(self.roles.values())
    names = {row: name for name, row in self._plain.items()}
    parts, pieces = [], []
    decode = lambda: (self._continued if parts else self._processor).decode(pieces)
    # A model may have more rows than there are tokens, and draw one of them.
    for i in (int(i) for i in ids if i not in special and i < self.size):
      if i in names:
        parts += [decode(), names[i]]
        pieces = []
      elif i < len(self._ids):
        pieces.append(i)
    parts.append(decode())
    return self._between.join(part for part in parts if part)

  def within(self, rows: int) -> "SentencePiece":
    """Returns the tokenizer without the tokens whose id is `rows` or more."""
    model = _parsed(self._model)
    del model.pieces[rows:]
    keep = lambda ids: {name: i for name, i in ids.items() if i < rows}
    found = SentencePiece(
        model.SerializeToString(), added=keep(self.added), special=keep(self.special),
        roles=keep(self.roles), start_only=self.start_only)
    found.chat = self.chat
    return found

  def load_chat(self, folder: epath.Path) -> None:
    """Reads the chat template of a folder, if there is one."""
    self.chat = chat_lib.read(folder)

  def save(self, folder: epath.Path) -> None:
    kinds.write_kind(folder, {
        "kind": KIND, "roles": self.roles, "added": self.added,
        "special": sorted(self.special), "start_only": self.start_only})
    if self.chat is not None:
      chat_lib.write(self.chat, folder)
    (folder / "tokenizer.model").write_bytes(self._model)

  def _encoded(self, text: str, names: Mapping[str, int]) -> list[int]:
    """Returns the ids of a text, which is divided at the names of some tokens."""
    return [i for part, processor in self._parts(text, names) for i in (
        [part] if isinstance(part, int) else processor.encode(part, out_type=int))]

  def _parts(
      self, text: str, names: Mapping[str, int]) -> Iterator[tuple[str | int, Any]]:
    """Yields the parts of a text: ids where a name stands, and text between them.

    Each comes with what encodes it.
    """
    processor = self._processor
    for part in filter(None, chat_lib.spelled(names).split(text)):
      yield names.get(part, part), processor
      processor = self._continued

  def _surface(self, i: int, piece: str) -> bytes:
    processor = self._processor
    if piece in self.special or processor.is_unknown(i) or processor.is_unused(i):
      return b""
    if processor.is_byte(i):
      return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode("utf-8")


def _parsed(model: bytes) -> Any:
  from sentencepiece import sentencepiece_model_pb2 as proto  # As above.
  messages: Any = proto  # Its classes are made when it is imported.
  return messages.ModelProto.FromString(model)


def _without_prefix(model: bytes) -> bytes:
  parsed = _parsed(model)
  parsed.normalizer_spec.add_dummy_prefix = False
  return parsed.SerializeToString()
