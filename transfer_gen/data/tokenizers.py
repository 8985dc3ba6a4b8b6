"""Tokenisers: bytes, characters, BPE, and what others have trained.

A tokeniser's file is data: nothing in it runs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import functools
import json
from typing import Any, Protocol

from etils import epath
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors

ROLES = ("pad", "bos", "eos", "sep")
_OWN = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "sep": "<sep>"}
_USUAL = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
    "bos": ("<s>", "<bos>", "[CLS]", "<|begin_of_text|>", "<|startoftext|>", "[BOS]"),
    "eos": ("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "[EOS]", "[SEP]"),
    "sep": ("<sep>", "[SEP]", "<|sep|>"),
    "unk": ("<unk>", "[UNK]", "<|unk|>"),
}
_KIND_FILE = "tokenizer_kind.json"
_CHUNK = 512


class Tokenizer(Protocol):
  """Text to token ids and back.

  Attributes:
    size: V, number of tokens.
    tokens: Surface of each, as bytes of text: b" the" whatever the tokeniser's own
      spelling of a space; b"" for special tokens. For matching vocabularies.
    roles: Ids of `pad`, `bos`, `eos`, `sep` and `unk`, as far as there are.
  """
  size: int
  tokens: tuple[bytes, ...]
  roles: Mapping[str, int]

  def encode(self, text: str) -> list[int]:
    """Ids of a text, without roles; `UserError` where a character has no token."""

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Ids of many texts; characters without a token become `unk`."""

  def decode(self, ids: Iterable[int]) -> str:
    """Text of ids; roles are skipped, bytes that are no UTF-8 become U+FFFD."""

  def save(self, folder: epath.Path) -> None:
    """Writes what `load` reads."""


def build(config: config_lib.Tokenizer, texts: Iterable[str]) -> Tokenizer:
  """A tokeniser as the config says, trained on `texts` where its kind learns.

  The same texts in the same order give the same tokeniser.

  Raises:
    errors.UserError: An unknown kind, a size that is too small, no such file.
  """
  if config.kind == "bytes":
    return _Bytes()
  if config.kind == "characters":
    return _Characters(sorted(set().union(*map(set, texts))))
  if config.kind == "bpe":
    return _train_bpe(config.size, texts)
  if config.kind == "file":
    return load(epath.Path(config.path).expanduser())
  raise errors.UserError(
      f"tokenizer.kind={config.kind!r}: must be bytes, characters, bpe or file.")


def load(path: epath.PathLike) -> Tokenizer:
  """Reads a tokeniser.

  Args:
    path: A folder that `save` wrote; a `tokenizer.json` of Hugging Face, a
      SentencePiece `.model`, or a folder with one of them or with GPT-2's
      `vocab.json` and `merges.txt`.

  Raises:
    errors.UserError: Nothing there, or not of that form.
  """
  path = epath.Path(path)
  if not path.exists():
    raise errors.UserError(
        f"tokenizer.path={str(path)!r}: nothing there. Give a tokenizer.json, a"
        " SentencePiece .model, or a folder with one.")
  try:
    return _load_folder(path) if path.is_dir() else _load_file(path)
  except errors.UserError:
    raise
  except Exception as error:  # The libraries raise bare Exceptions.
    raise errors.UserError(
        f"{path}: no tokeniser that can be read ({str(error)[:200]}). Give a"
        " tokenizer.json or a SentencePiece .model.") from error


def resolve_roles(tokenizer: Tokenizer) -> tuple[dict[str, int], list[str]]:
  """Ids for all of `ROLES`, and a sentence for each that another token plays.

  End of text stands for a missing bos, sep or pad (padding has weight 0); a
  missing end of text is played by bos.
  """
  roles = {role: tokenizer.roles[role] for role in ROLES if role in tokenizer.roles}
  notes = []
  for role, stand_in in (("eos", "bos"), ("bos", "eos"), ("sep", "eos"), ("pad", "eos")):
    if role in roles:
      continue
    if stand_in not in roles:
      raise errors.UserError(
          "The tokeniser has neither a beginning nor an end of text (looked for"
          f" {', '.join(_USUAL['bos'] + _USUAL['eos'])}). Add such a special token to"
          " its file.")
    roles[role] = roles[stand_in]
    notes.append(f"the tokeniser has no {role}: {stand_in} stands for it")
  return {role: roles[role] for role in ROLES}, notes


class _Bytes:
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
    _write(folder, {"kind": "bytes"})


class _Characters:
  """One token a character of the training split, after the roles and `unk`."""

  def __init__(self, characters: Sequence[str]):
    self.roles = {role: i for i, role in enumerate((*ROLES, "unk"))}
    self._characters = tuple(characters)
    self._ids = {c: i for i, c in enumerate(characters, len(self.roles))}
    self.tokens = (b"",) * len(self.roles) + tuple(
        c.encode("utf-8") for c in characters)
    self.size = len(self.tokens)

  def encode(self, text: str) -> list[int]:
    _refuse_unknown(text, [i for i, c in enumerate(text) if c not in self._ids])
    return [self._ids[c] for c in text]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    unk = self.roles["unk"]
    return [[self._ids.get(c, unk) for c in text] for text in texts]

  def decode(self, ids: Iterable[int]) -> str:
    return b"".join(self.tokens[i] for i in ids).decode("utf-8")

  def save(self, folder: epath.Path) -> None:
    _write(folder, {"kind": "characters", "characters": "".join(self._characters)})


class _HuggingFace:
  """Whatever a `tokenizer.json` describes, ours included."""

  def __init__(self, tokenizer: Any):
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # A document that spells "</s>" must not end there.
    tokenizer.encode_special_tokens = True
    self._tokenizer = tokenizer
    self.size = tokenizer.get_vocab_size(with_added_tokens=True)
    self.roles = _usual_roles(tokenizer.token_to_id)
    description = json.loads(tokenizer.to_str())
    unknown = (description.get("model") or {}).get("unk_token")
    if unknown and tokenizer.token_to_id(unknown) is not None:
      self.roles["unk"] = tokenizer.token_to_id(unknown)
    self.tokens = _surfaces(description, tokenizer, self.roles)

  def encode(self, text: str) -> list[int]:
    encoding = self._tokenizer.encode(text, add_special_tokens=False)
    unk = self.roles.get("unk")
    _refuse_unknown(text, [
        position for i, (start, end) in zip(encoding.ids, encoding.offsets)
        if i == unk for position in range(start, end)])
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
    _write(folder, {"kind": "huggingface"})
    (folder / "tokenizer.json").write_text(self._tokenizer.to_str())


class _SentencePiece:
  """A SentencePiece model; its own normalisation may fold line ends to spaces."""

  def __init__(self, model: bytes):
    import sentencepiece  # pylint: disable=g-import-not-at-top
    self._model = model
    self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    processor = self._processor
    self.size = processor.get_piece_size()
    pieces = [processor.id_to_piece(i) for i in range(self.size)]
    ids = {piece: i for i, piece in enumerate(pieces) if processor.is_control(i)}
    own = {
        "pad": processor.pad_id(), "bos": processor.bos_id(),
        "eos": processor.eos_id(), "unk": processor.unk_id()}
    self.roles = _usual_roles(ids.get) | {r: i for r, i in own.items() if i >= 0}
    self.tokens = tuple(map(self._surface, range(self.size), pieces))

  def encode(self, text: str) -> list[int]:
    pieces = self._processor.encode(text, out_type="immutable_proto").pieces
    unk = self.roles.get("unk")
    _refuse_unknown(text, [
        position for piece in pieces if piece.id == unk
        for position in range(piece.begin, piece.end)])
    return [piece.id for piece in pieces]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    return self._processor.encode(list(texts), out_type=int)

  def decode(self, ids: Iterable[int]) -> str:
    special = set(self.roles.values())
    return self._processor.decode([int(i) for i in ids if i not in special])

  def save(self, folder: epath.Path) -> None:
    _write(folder, {"kind": "sentencepiece"})
    (folder / "tokenizer.model").write_bytes(self._model)

  def _surface(self, i: int, piece: str) -> bytes:
    processor = self._processor
    if processor.is_control(i) or processor.is_unknown(i) or processor.is_unused(i):
      return b""
    if processor.is_byte(i):
      return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode("utf-8")


def _train_bpe(size: int, texts: Iterable[str]) -> _HuggingFace:
  """Byte-level BPE: every text can be encoded, and decoding gives it back."""
  import tokenizers  # pylint: disable=g-import-not-at-top
  smallest = len(_OWN) + 256
  if size < smallest:
    raise errors.UserError(
        f"tokenizer.size={size}: byte-level BPE needs at least {smallest} tokens (256"
        f" bytes and {len(_OWN)} special ones).")
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False)
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  tokenizer.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
      vocab_size=size, show_progress=False, special_tokens=list(_OWN.values()),
      initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
  return _HuggingFace(tokenizer)


def _load_folder(folder: epath.Path) -> Tokenizer:
  if (folder / _KIND_FILE).exists():
    saved = json.loads((folder / _KIND_FILE).read_text())
    if saved["kind"] == "bytes":
      return _Bytes()
    if saved["kind"] == "characters":
      return _Characters(saved["characters"])
  if (folder / "tokenizer.json").exists():
    return _load_file(folder / "tokenizer.json")
  models = sorted(path for path in folder.iterdir() if path.suffix == ".model")
  if len(models) == 1:
    return _load_file(models[0])
  if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
    return _load_gpt2(folder / "vocab.json", folder / "merges.txt")
  raise errors.UserError(
      f"{folder}: holds no tokenizer.json, no single .model, and no vocab.json with"
      " merges.txt. Give the path of the file itself.")


def _load_file(path: epath.Path) -> Tokenizer:
  if path.suffix == ".model":
    return _SentencePiece(path.read_bytes())
  if path.suffix == ".json":
    import tokenizers  # pylint: disable=g-import-not-at-top
    return _HuggingFace(tokenizers.Tokenizer.from_str(path.read_text()))
  raise errors.UserError(
      f"{path}: a tokeniser's file is a tokenizer.json or a SentencePiece .model.")


def _load_gpt2(vocab: epath.Path, merges: epath.Path) -> Tokenizer:
  """Byte-level BPE in the two files that GPT-2 was published in."""
  import tokenizers  # pylint: disable=g-import-not-at-top
  pairs = [
      tuple(line.split(" ")) for line in merges.read_text().splitlines()
      if line and not line.startswith("#version")]
  ids = json.loads(vocab.read_text())
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=ids, merges=pairs))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False)
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  tokenizer.add_special_tokens(
      [token for tokens in _USUAL.values() for token in tokens if token in ids])
  return _HuggingFace(tokenizer)


def _usual_roles(find: Any) -> dict[str, int]:
  """Roles by the names that tokenisers usually give them; `find` may say None."""
  roles = {}
  for role, names in _USUAL.items():
    found = [i for i in map(find, names) if i is not None]
    if found:
      roles[role] = found[0]
  return roles


def _surfaces(
    description: Mapping[str, Any], tokenizer: Any, roles: Mapping[str, int]
) -> tuple[bytes, ...]:
  """Surface of each token, by the spelling that its decoder undoes."""
  decoders = set(_types(description.get("decoder")))
  added = {token["id"]: token for token in description["added_tokens"]}
  model = description.get("model") or {}
  prefix = (description.get("decoder") or {}).get("prefix", "##")
  surfaces = []
  for i in range(max(tokenizer.get_vocab().values(), default=-1) + 1):
    token = tokenizer.id_to_token(i)
    if token is None or i in roles.values() or added.get(i, {}).get("special"):
      surface = b""
    elif i in added:
      surface = token.encode("utf-8")
    elif "ByteLevel" in decoders:
      surface = b"".join(_letters()[c] for c in token)
    elif "WordPiece" in decoders:
      surface = (
          token.removeprefix(prefix) if token.startswith(prefix) else " " + token
      ).encode("utf-8")
    elif model.get("byte_fallback") and _is_byte(token):
      surface = bytes([int(token[3:5], 16)])
    elif decoders & {"Metaspace", "Replace"}:
      surface = token.replace("\u2581", " ").encode("utf-8")
    else:
      surface = token.encode("utf-8")
    surfaces.append(surface)
  return tuple(surfaces)


def _types(decoder: Any) -> Iterator[str]:
  """Names of a decoder and of those in it."""
  if decoder:
    yield decoder["type"]
    for inner in decoder.get("decoders", ()):
      yield from _types(inner)


def _is_byte(token: str) -> bool:
  return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


@functools.cache
def _letters() -> dict[str, bytes]:
  """The byte behind each letter of byte-level BPE: printable ones are themselves."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [i for i in range(256) if i not in printable]
  letters = {chr(i): bytes([i]) for i in printable}
  return letters | {chr(256 + n): bytes([i]) for n, i in enumerate(others)}


def _refuse_unknown(text: str, positions: Sequence[int]) -> None:
  """Raises where characters at some positions have no token."""
  if not positions:
    return
  characters = sorted({text[i] for i in positions})
  shown = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in characters[:10])
  first = positions[0]
  raise errors.UserError(
      f"{len(characters)} characters are outside the tokeniser's vocabulary: {shown}"
      f"{' ...' if len(characters) > 10 else ''}; the first at position {first + 1},"
      f" in {text[max(0, first - 20):first + 20]!r}. Take them out, or train with"
      " tokenizer.kind=bytes or bpe, which know every character.")


def _write(folder: epath.Path, description: Mapping[str, Any]) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  (folder / _KIND_FILE).write_text(json.dumps(description, ensure_ascii=False))
