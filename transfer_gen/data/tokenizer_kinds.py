"""The kinds of tokenisers; `tokenizers.Tokenizer` says what each method does."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
import functools
import json
from typing import Any

from etils import epath
import numpy as np

from transfer_gen import errors
from transfer_gen.transfer import vocabulary

ROLES = ("pad", "bos", "eos", "sep")
OWN = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "sep": "<sep>"}
USUAL = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
    "bos": ("<s>", "<bos>", "[CLS]", "<|begin_of_text|>", "<|startoftext|>", "[BOS]"),
    "eos": ("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "[EOS]", "[SEP]"),
    "sep": ("<sep>", "[SEP]", "<|sep|>"),
    "unk": ("<unk>", "[UNK]", "<|unk|>"),
}
# Splitters that take spaces away, and what ordinary text has no space before.
_WORD_SPLITTERS = {"Whitespace", "BertPreTokenizer"}
_CLOSING = frozenset(".,;:!?)]}%")
KIND_FILE = "tokenizer_kind.json"
_CHUNK = 512


class Bytes:
  """UTF-8 bytes after the four roles."""

  def __init__(self):
    self.roles = {role: i for i, role in enumerate(ROLES)}
    self.tokens = (b"",) * len(ROLES) + tuple(bytes([i]) for i in range(256))
    self.size = len(self.tokens)

  def encode(self, text: str) -> list[int]:
    data = np.frombuffer(text.encode("utf-8"), np.uint8)
    return (data.astype(np.int32) + len(ROLES)).tolist()

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    return [self.encode(text) for text in texts]

  def decode(self, ids: Iterable[int]) -> str:
    return b"".join(self.tokens[i] for i in ids).decode("utf-8", "replace")

  def save(self, folder: epath.Path) -> None:
    write_kind(folder, {"kind": "bytes"})


class Characters:
  """One token a character: those of the training split, after the roles and `unk`.

  With `roles`, characters under ids of their own: a character's is its index, where a
  role or nothing stands it is None, and where there is no `unk`, texts with other
  characters are refused.
  """

  def __init__(
      self, characters: Sequence[str | None], roles: Mapping[str, int] | None = None):
    self._given = roles is not None
    if roles is None:
      roles = {role: i for i, role in enumerate((*ROLES, "unk"))}
      characters = (None,) * len(roles) + tuple(characters)
    self.roles = dict(roles)
    self._characters = tuple(characters)
    self._ids = {c: i for i, c in enumerate(characters) if c is not None}
    self.tokens = tuple((c or "").encode("utf-8") for c in characters)
    self.size = len(self.tokens)

  def encode(self, text: str) -> list[int]:
    refuse_unknown(text, set(text) - set(self._ids))
    return [self._ids[c] for c in text]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    if "unk" not in self.roles:
      return [self.encode(text) for text in texts]
    unk = self.roles["unk"]
    return [[self._ids.get(c, unk) for c in text] for text in texts]

  def decode(self, ids: Iterable[int]) -> str:
    return b"".join(self.tokens[i] for i in ids).decode("utf-8")

  def save(self, folder: epath.Path) -> None:
    if self._given:
      write_kind(folder, {"kind": "characters", "characters": self._characters,
                      "roles": self.roles})
      return
    own = self._characters[len(self.roles):]
    write_kind(folder, {
        "kind": "characters", "characters": "".join(c or "" for c in own)})


class HuggingFace:
  """Whatever a `tokenizer.json` describes, ours included."""

  def __init__(self, tokenizer: Any):
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # A document that spells "</s>" must not end there.
    tokenizer.encode_special_tokens = True
    self._tokenizer = tokenizer
    self.roles = usual_roles(tokenizer.token_to_id)
    description = json.loads(tokenizer.to_str())
    unknown = (description.get("model") or {}).get("unk_token")
    if unknown and tokenizer.token_to_id(unknown) is not None:
      self.roles["unk"] = tokenizer.token_to_id(unknown)
    self.tokens = _surfaces(description, tokenizer, self.roles)
    self.size = len(self.tokens)  # Ids may have gaps.

  def encode(self, text: str) -> list[int]:
    encoding = self._tokenizer.encode(text, add_special_tokens=False)
    unk = self.roles.get("unk")
    refuse_unknown(text, {
        c for i, (start, end) in zip(encoding.ids, encoding.offsets)
        if i == unk for c in text[start:end]})
    return encoding.ids

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    ids = []
    for start in range(0, len(texts), _CHUNK):  # An Encoding is 50 x its ids.
      ids += [e.ids for e in self._tokenizer.encode_batch_fast(
          texts[start:start + _CHUNK], add_special_tokens=False)]
    return ids

  def decode(self, ids: Iterable[int]) -> str:
    special = set(self.roles.values())
    return self._tokenizer.decode(
        [int(i) for i in ids if i not in special], skip_special_tokens=True)

  def save(self, folder: epath.Path) -> None:
    write_kind(folder, {"kind": "huggingface"})
    (folder / "tokenizer.json").write_bytes(
        self._tokenizer.to_str().encode("utf-8"))


class SentencePiece:
  """A SentencePiece model; its own normalisation may fold line ends to spaces."""

  def __init__(self, model: bytes):
    import sentencepiece
    self._model = model
    self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    processor = self._processor
    self.size = processor.get_piece_size()
    pieces = [processor.id_to_piece(i) for i in range(self.size)]
    ids = {piece: i for i, piece in enumerate(pieces) if processor.is_control(i)}
    own = {
        "pad": processor.pad_id(), "bos": processor.bos_id(),
        "eos": processor.eos_id(), "unk": processor.unk_id()}
    self.roles = usual_roles(ids.get) | {r: i for r, i in own.items() if i >= 0}
    self.tokens = tuple(map(self._surface, range(self.size), pieces))

  def encode(self, text: str) -> list[int]:
    ids = self._processor.encode(text, out_type=int)
    pieces = self._processor.encode(text, out_type=str)
    unk = self.roles.get("unk")
    refuse_unknown(text, {
        c for i, piece in zip(ids, pieces) if i == unk for c in piece})
    return ids

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    return self._processor.encode(list(texts), out_type=int)

  def decode(self, ids: Iterable[int]) -> str:
    special = set(self.roles.values())
    return self._processor.decode([int(i) for i in ids if i not in special])

  def save(self, folder: epath.Path) -> None:
    write_kind(folder, {"kind": "sentencepiece"})
    (folder / "tokenizer.model").write_bytes(self._model)

  def _surface(self, i: int, piece: str) -> bytes:
    processor = self._processor
    if processor.is_control(i) or processor.is_unknown(i) or processor.is_unused(i):
      return b""
    if processor.is_byte(i):
      return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode("utf-8")


def usual_roles(find: Callable[[str], int | None]) -> dict[str, int]:
  """Roles by the names that tokenisers usually give them; None: no such token."""
  roles = {}
  for role, names in USUAL.items():
    found = [i for i in map(find, names) if i is not None]
    if found:
      roles[role] = found[0]
  return roles


def _surfaces(
    description: Mapping[str, Any], tokenizer: Any, roles: Mapping[str, int]
) -> tuple[bytes, ...]:
  """Surface of each token."""
  added = {token["id"]: token for token in description["added_tokens"]}
  surface_fn = _surface_fn(description)
  surfaces = []
  for i in range(max(tokenizer.get_vocab().values(), default=-1) + 1):
    token = tokenizer.id_to_token(i)
    if token is None or i in roles.values() or added.get(i, {}).get("special"):
      surfaces.append(b"")
    else:
      surfaces.append(token.encode("utf-8") if i in added else surface_fn(token))
  return tuple(surfaces)


def _surface_fn(description: Mapping[str, Any]) -> Callable[[str], bytes]:
  """The text behind a token's spelling, as its model, splitter and decoder have it."""
  parts = {part["type"]: part for name in ("pre_tokenizer", "model", "decoder")
           for part in _parts(description.get(name))}
  if "ByteLevel" in parts:
    text_fn = lambda token: b"".join(_bytes().get(c, c.encode("utf-8")) for c in token)
  elif "WordPiece" in parts:
    piece = parts["WordPiece"]
    text_fn = _words_fn(piece.get("prefix", piece.get("continuing_subword_prefix")))
  elif "WordLevel" in parts and _WORD_SPLITTERS & parts.keys():
    text_fn = _words_fn(None)
  elif {"Metaspace", "Replace"} & parts.keys():
    space = parts.get("Metaspace", {}).get("replacement", "\u2581")
    text_fn = lambda token: token.replace(space, " ").encode("utf-8")
  else:
    text_fn = lambda token: token.encode("utf-8")

  model = description.get("model") or {}
  end = model.get("end_of_word_suffix") or parts.get("BPEDecoder", {}).get("suffix")
  byte_pieces = model.get("byte_fallback") or "ByteFallback" in parts

  def surface(token):
    if byte_pieces and _is_byte(token):
      return bytes([int(token[3:5], 16)])
    if end and token.endswith(end):
      return text_fn(token.removesuffix(end)) + b" "
    return text_fn(token)

  return surface


def _words_fn(prefix: str | None) -> Callable[[str], bytes]:
  """For words split at spaces and punctuation; `prefix` marks those that go on."""
  def surface(token):
    if prefix and token.startswith(prefix):
      return token.removeprefix(prefix).encode("utf-8")
    joined = token in _CLOSING or (len(token) == 1 and "\u3400" <= token <= "\u9fff")
    return ("" if joined else " ").encode() + token.encode("utf-8")
  return surface


def _parts(part: Any) -> Iterator[Mapping[str, Any]]:
  """A part of a tokenizer's description, or the parts of a sequence."""
  if part and "type" in part:
    yield part
    for inner in (*part.get("decoders", ()), *part.get("pretokenizers", ())):
      yield from _parts(inner)


def _is_byte(token: str) -> bool:
  return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


@functools.cache
def _bytes() -> dict[str, bytes]:
  return {letter: byte for byte, letter in vocabulary.byte_letters().items()}


def refuse_unknown(text: str, characters: Collection[str]) -> None:
  """Raises where some characters have no token."""
  if not characters:
    return
  shown = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in sorted(characters)[:10])
  # A tokeniser's own normalisation may have made them: then none is in the text.
  first = min((i for i in map(text.find, characters) if i >= 0), default=0)
  raise errors.UserError(
      f"{len(characters)} characters are outside the tokeniser's vocabulary: {shown}"
      f"{' ...' if len(characters) > 10 else ''}; the first at position {first + 1},"
      f" in {text[max(0, first - 20):first + 20]!r}. Take them out, or train with"
      " tokenizer.kind=bytes or bpe, which know every character.")


def write_kind(folder: epath.Path, description: Mapping[str, Any]) -> None:
  """Writes what `tokenizers.load` begins with; makes the folder."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / KIND_FILE).write_bytes(
      json.dumps(description).encode("utf-8"))
