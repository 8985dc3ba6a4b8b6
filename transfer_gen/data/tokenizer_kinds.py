"""The kinds of tokenizers; `tokenizers.Tokenizer` documents their methods."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
import contextlib
import functools
import json
from typing import Any

from etils import epath
import numpy as np

from transfer_gen import errors
from transfer_gen import system
from transfer_gen.data import chat as chat_lib
from transfer_gen.transfer import vocabulary

ROLES = ("pad", "bos", "eos", "sep")
OWN = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "sep": "<sep>"}
# Names that special tokens have in published tokenizers; the first that exists wins.
USUAL = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
    "bos": ("<s>", "<bos>", "[CLS]", "<|begin_of_text|>", "<|startoftext|>", "[BOS]"),
    "eos": ("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "[EOS]", "[SEP]"),
    "sep": ("<sep>", "[SEP]", "<|sep|>"),
    "unk": ("<unk>", "[UNK]", "<|unk|>"),
}
# Pre-tokenizers that remove the spaces of a text, and characters that usually follow
# the word before them without a space.
_WORD_SPLITTERS = {"Whitespace", "WhitespaceSplit", "BertPreTokenizer"}
_CLOSING = frozenset(".,;:!?)]}%")
KIND_FILE = "tokenizer_kind.json"
_GAPS = 2**17  # Ids without a token that every vocabulary may have.
_CHUNK = 512  # Texts that are encoded at a time.


# The libraries raise bare `Exception`s. Where Rust code has a bug, which a damaged file
# may reach, it panics: that is a BaseException, of a class that cannot be imported.
@contextlib.contextmanager
def as_user_errors() -> Iterator[None]:
  """Turns what a tokenizer library raises for a damaged file into one message.

  Raises:
    errors.UserError: If the body raises anything that comes from the library.
  """
  try:
    yield
  except errors.UserError:
    raise
  except BaseException as error:
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
      raise  # Ctrl-C, for example.
    system.check("the tokenizer", error)
    raise errors.UserError(
        f"the tokenizer cannot be used ({errors.cause(error)}). Its file is damaged, or"
        " no tokenizer.json, SentencePiece .model or other known form.") from error


def check_gaps(size: int, count: int) -> None:
  """Refuses `count` tokens whose ids reach up to `size` if most stand for nothing.

  Tables have a row for each id, so that one damaged id could fill the memory.

  Raises:
    errors.UserError: If they do.
  """
  if size > _GAPS + 2 * count:
    raise errors.UserError(
        f"its {count:,} tokens have ids up to {str(size - 1)[:30]}: one is damaged.")


class Bytes:
  """One token for each UTF-8 byte, after the four special tokens."""

  def __init__(self):
    self.special: dict[str, int] = {}
    self.roles = {role: i for i, role in enumerate(ROLES)}
    self.tokens = (b"",) * len(ROLES) + tuple(bytes([i]) for i in range(256))
    self.size = len(self.tokens)

  def encode(self, text: str) -> list[int]:
    data = np.frombuffer(text.encode("utf-8"), np.uint8)
    # Bytes from 252 on would wrap around in uint8.
    return (data.astype(np.int32) + len(ROLES)).tolist()

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    return [self.encode(text) for text in texts]

  def decode(self, ids: Iterable[int]) -> str:
    return _joined(self.tokens, ids).decode("utf-8", "replace")

  def save(self, folder: epath.Path) -> None:
    write_kind(folder, {"kind": "bytes"})


class Characters:
  """One token for each character.

  By default the characters come after the special tokens and `unk`. If `roles` is
  given, the id of a character is its index in `characters`, which holds None at the ids
  of special tokens and at unused ids. Without `unk`, texts with other characters raise.
  """

  def __init__(
      self, characters: Sequence[str | None], roles: Mapping[str, int] | None = None):
    self.special: dict[str, int] = {}
    self._given = roles is not None
    if roles is None:
      roles = {role: i for i, role in enumerate((*ROLES, "unk"))}
      characters = (None,) * len(roles) + tuple(characters)
    self.roles = dict(roles)
    self._characters = tuple(characters)
    self._ids = {c: i for i, c in enumerate(characters) if c is not None}
    self.tokens = tuple((c or "").encode("utf-8") for c in characters)
    self.size = len(self.tokens)

  def with_roles(self, roles: Mapping[str, int]) -> "Characters":
    """Returns the same ids with further roles, whose tokens then stand for no text."""
    texts = [None if i in roles.values() else c for i, c in enumerate(self._characters)]
    return Characters(texts, {**self.roles, **roles})

  def encode(self, text: str) -> list[int]:
    refuse_unknown(text, set(text) - set(self._ids))
    return [self._ids[c] for c in text]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    if "unk" not in self.roles:
      return [self.encode(text) for text in texts]
    unk = self.roles["unk"]
    return [[self._ids.get(c, unk) for c in text] for text in texts]

  def decode(self, ids: Iterable[int]) -> str:
    return _joined(self.tokens, ids).decode("utf-8")

  def save(self, folder: epath.Path) -> None:
    if self._given:
      write_kind(folder, {"kind": "characters", "characters": self._characters,
                      "roles": self.roles})
      return
    own = self._characters[len(self.roles):]
    write_kind(folder, {
        "kind": "characters", "characters": "".join(c or "" for c in own)})


class HuggingFace:
  """A tokenizer that a `tokenizer.json` describes, such as one of kind "bpe".

  Attributes:
    special: Ids of its special tokens by their spelling.
    chat: The chat template that came with it, if any.
  """

  def __init__(self, tokenizer: Any, roles: Mapping[str, int] | None = None):
    """Initializes from a tokenizer of the library `tokenizers`.

    Args:
      tokenizer: The tokenizer.
      roles: Ids of special tokens by role, by default found by their usual names.
    """
    self.chat: chat_lib.Template | None = None
    # A tokenizer.json may hold both settings. Rows are cut and padded elsewhere.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # A document that contains the characters "</s>" must not end there: they are
    # encoded as text, and not as the special token.
    tokenizer.encode_special_tokens = True
    self._tokenizer = tokenizer
    description = json.loads(tokenizer.to_str())
    self.roles = dict(roles) if roles is not None else _usual(description, tokenizer)
    self.special = {token["content"]: token["id"]
                    for token in description["added_tokens"] if token["special"]}
    self.tokens = _surfaces(description, tokenizer, self.roles)
    # Not the size of the vocabulary: its ids may have gaps.
    self.size = len(self.tokens)

  @as_user_errors()
  def encode(self, text: str) -> list[int]:
    # Special tokens are left to `rows`: a file's own template would add them twice.
    encoding = self._tokenizer.encode(text, add_special_tokens=False)
    unk = self.roles.get("unk")
    refuse_unknown(text, {
        c for i, (start, end) in zip(encoding.ids, encoding.offsets)
        if i == unk for c in text[start:end]})
    return encoding.ids

  @as_user_errors()
  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    ids = []
    # In chunks, because an `Encoding` takes about 50 times the memory of its ids.
    for start in range(0, len(texts), _CHUNK):
      ids += [e.ids for e in self._tokenizer.encode_batch_fast(
          texts[start:start + _CHUNK], add_special_tokens=False)]
    return ids

  @as_user_errors()
  def encode_marked(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of texts in which special tokens are spelled."""
    self._tokenizer.encode_special_tokens = False
    try:
      return self.encode_batch(texts)
    finally:
      self._tokenizer.encode_special_tokens = True

  @as_user_errors()
  def decode(self, ids: Iterable[int]) -> str:
    special = set(self.roles.values())
    return self._tokenizer.decode(
        [int(i) for i in ids if i not in special], skip_special_tokens=True)

  def within(self, rows: int) -> "HuggingFace":
    """Returns the tokenizer without the tokens whose id is `rows` or more.

    Raises:
      errors.UserError: If it needs one of them.
    """
    import tokenizers  # Here, because only some kinds need the library.
    described = _cut(json.loads(self._tokenizer.to_str()), rows)
    try:
      found = tokenizers.Tokenizer.from_str(json.dumps(described))
    except Exception as error:  # The library raises bare `Exception`s.
      raise errors.UserError(
          f"cut to {rows} tokens, it cannot be read: {errors.cause(error)}.") from error
    cut = HuggingFace(found, {r: i for r, i in self.roles.items() if i < rows})
    cut.chat = self.chat
    return cut

  def load_chat(self, folder: epath.Path) -> None:
    """Reads the chat template of a folder, if there is one."""
    self.chat = chat_lib.read(folder)

  def save(self, folder: epath.Path) -> None:
    write_kind(folder, {"kind": "huggingface", "roles": self.roles})
    if self.chat is not None:
      chat_lib.write(self.chat, folder)
    (folder / "tokenizer.json").write_bytes(
        self._tokenizer.to_str().encode("utf-8"))


# Merges that make a token which is left out go with it: texts are then split into the
# tokens that it would have been made of.
def _cut(described: dict[str, Any], rows: int) -> dict[str, Any]:
  """Leaves tokens with an id of `rows` or more out of a tokenizer.json."""
  model = dict(described["model"])
  if isinstance(model["vocab"], list):  # Unigram: an id is a position.
    model["vocab"] = model["vocab"][:rows]
    kept = {piece for piece, _ in model["vocab"]}
  else:
    model["vocab"] = {t: i for t, i in model["vocab"].items() if i < rows}
    kept = model["vocab"].keys()
  if "merges" in model:
    prefix = model.get("continuing_subword_prefix") or ""
    made = lambda first, second: first + second.removeprefix(prefix)
    pairs = (pair.split(" ", 1) if isinstance(pair, str) else pair
             for pair in model["merges"])
    model["merges"] = [
        pair for pair in pairs if {*pair, made(*pair)} <= kept]
  return {**described, "model": model, "added_tokens": [
      token for token in described["added_tokens"] if token["id"] < rows]}


# A model may have more rows than there are tokens, and draw one of them.
def _joined(tokens: Sequence[bytes], ids: Iterable[int]) -> bytes:
  return b"".join(tokens[i] for i in ids if i < len(tokens))


def usual_roles(find: Callable[[str], int | None]) -> dict[str, int]:
  """Returns the ids of special tokens, found by their usual names.

  Args:
    find: Returns the id of a token, or None if there is no such token.
  """
  roles = {}
  for role, names in USUAL.items():
    found = [i for i in map(find, names) if i is not None]
    if found:
      roles[role] = found[0]
  return roles


def _usual(description, tokenizer) -> dict[str, int]:
  """Returns the ids of special tokens, found by their usual names."""
  roles = usual_roles(tokenizer.token_to_id)
  # What the model itself names wins over the usual names, unless its vocabulary lacks
  # that token.
  unknown = (description.get("model") or {}).get("unk_token")
  if unknown and tokenizer.token_to_id(unknown) is not None:
    roles["unk"] = tokenizer.token_to_id(unknown)
  return roles


def _surfaces(
    description: Mapping[str, Any], tokenizer: Any, roles: Mapping[str, int]
) -> tuple[bytes, ...]:
  """Returns the surface of each token; b"" for special tokens and unused ids."""
  added = {token["id"]: token for token in description["added_tokens"]}
  surface_fn = _surface_fn(description)
  surfaces = []
  ids = tokenizer.get_vocab().values()
  check_gaps(max(ids, default=-1) + 1, len(ids))
  for i in range(max(ids, default=-1) + 1):
    token = tokenizer.id_to_token(i)
    if token is None or i in roles.values() or added.get(i, {}).get("special"):
      surfaces.append(b"")
    else:
      # Added tokens are found in the text before it is split, so they are spelled
      # literally even where other tokens are in letters for bytes.
      surfaces.append(token.encode("utf-8") if i in added else surface_fn(token))
  return tuple(surfaces)


def _surface_fn(description: Mapping[str, Any]) -> Callable[[str], bytes]:
  """Returns the function from a token's spelling to its surface.

  How a tokenizer spells spaces and bytes depends on its pre-tokenizer, its model and
  its decoder.
  """
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
    # BPE such as CLIP's marks the end of a word, behind which a space follows.
    if end and token.endswith(end):
      return text_fn(token.removesuffix(end)) + b" "
    return text_fn(token)

  return surface


def _words_fn(prefix: str | None) -> Callable[[str], bytes]:
  """Returns the surface function of tokenizers that split words and drop spaces.

  Args:
    prefix: Marks a token that continues a word, such as "##"; None if none does.
  """
  def surface(token):
    if prefix and token.startswith(prefix):
      return token.removeprefix(prefix).encode("utf-8")
    # BERT makes each Chinese character a token of its own, and its text has no spaces.
    joined = token in _CLOSING or (len(token) == 1 and "\u3400" <= token <= "\u9fff")
    return ("" if joined else " ").encode() + token.encode("utf-8")
  return surface


def _parts(part: Any) -> Iterator[Mapping[str, Any]]:
  """Yields a part of a tokenizer's description and the parts that it contains."""
  if part and "type" in part:
    yield part
    # Parts of type Sequence contain others, under one of these two keys.
    for inner in (*part.get("decoders", ()), *part.get("pretokenizers", ())):
      yield from _parts(inner)


def _is_byte(token: str) -> bool:
  # SentencePiece spells byte 10 as <0x0A>.
  return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


@functools.cache
def _bytes() -> dict[str, bytes]:
  return {letter: byte for byte, letter in vocabulary.byte_letters().items()}


def refuse_unknown(text: str, characters: Collection[str]) -> None:
  """Raises a `UserError` that names characters without a token, if there are any."""
  if not characters:
    return
  shown = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in sorted(characters)[:10])
  # The tokenizer's own normalization may have made them: then none is in the text.
  first = min((i for i in map(text.find, characters) if i >= 0), default=0)
  raise errors.UserError(
      f"{len(characters)} characters are outside the tokenizer's vocabulary: {shown}"
      f"{' ...' if len(characters) > 10 else ''}; the first at position {first + 1},"
      f" in {text[max(0, first - 20):first + 20]!r}. Remove them, or train with"
      " tokenizer.kind=bytes or bpe, which encode every character.")


def write_kind(folder: epath.Path, description: Mapping[str, Any]) -> None:
  """Writes the file that `tokenizers.load` reads first, and creates the folder."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / KIND_FILE).write_bytes(
      json.dumps(description).encode("utf-8"))
