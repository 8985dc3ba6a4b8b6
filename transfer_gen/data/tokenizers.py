"""Builds and loads tokenizers: bytes, characters, BPE, and those that others trained.

A tokenizer's file is data only; loading one runs no code from it.
"""

from collections.abc import Iterable, Mapping, Sequence
import hashlib
import pathlib
import tempfile
from typing import Any, Protocol

from etils import epath

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import files
from transfer_gen.data import tokenizer_folders
from transfer_gen.data import tokenizer_kinds as kinds
from transfer_gen.data import tokenizer_pieces as pieces

ROLES = kinds.ROLES
MODELS, _strokes = tokenizer_folders.MODELS, tokenizer_folders.strokes
is_drawn = _strokes.is_drawn
FOLDER = "tokenizer"  # Name of the folder in a workdir.
_OWN = ("bytes", "characters", "bpe")  # Kinds whose tokens are decided here.


class Tokenizer(Protocol):
  """Turns text into token ids and back."""

  @property
  def size(self) -> int:
    """V, the number of tokens."""
    ...

  @property
  def tokens(self) -> tuple[bytes, ...]:
    """The surface of each token: the bytes of text that it stands for.

    A space is b" " in all of them, however the tokenizer itself spells it; special
    tokens have b"". Vocabularies are matched by surfaces.
    """
    ...

  @property
  def roles(self) -> Mapping[str, int]:
    """Ids of the special tokens `pad`, `bos`, `eos`, `sep` and `unk` that exist."""
    ...

  @property
  def special(self) -> Mapping[str, int]:
    """Ids of the special tokens by their spelling, where they have one."""
    ...

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text, without special tokens.

    Raises:
      errors.UserError: If a character has no token.
    """
    ...

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of many texts; characters without a token become `unk`."""
    ...

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of ids, without special tokens.

    Bytes that are not UTF-8 become U+FFFD.
    """
    ...

  def save(self, folder: epath.Path) -> None:
    """Writes the tokenizer to a folder that `load` reads."""
    ...


def build(config: config_lib.Tokenizer, texts: Iterable[str]) -> Tokenizer:
  """Builds the tokenizer that a config describes.

  Args:
    config: Its kind, and the size or path that the kind needs.
    texts: Training texts. The kinds "characters", "bpe" and "words" are learned from
      them; the same texts in the same order give the same tokenizer.

  Raises:
    errors.UserError: If the kind is unknown, the size too small, or the file missing.

  Example:
    >>> from transfer_gen import config
    >>> from transfer_gen.data import tokenizers
    >>> tokenizer = tokenizers.build(config.Tokenizer(kind="characters"), ["abba"])
    >>> tokenizer.decode(tokenizer.encode("baa"))
    'baa'
  """
  if config.sentinels and config.kind not in _OWN:
    raise errors.UserError(
        f"tokenizer.sentinels is {config.sentinels}, and tokenizer.kind={config.kind}"
        f" keeps the tokens that it has. Set it to 0, or choose {', '.join(_OWN)}.")
  if config.kind == "bytes":
    return _marked(kinds.Bytes(), config.sentinels)
  if config.kind == "characters":
    found = kinds.Characters(sorted(set().union(*map(set, texts))))
    return _marked(found, config.sentinels)
  if config.kind == "bpe":
    return _train_bpe(config.size, config.sentinels, texts)
  if config.kind == "words":
    return tokenizer_folders.train_words(config.size, texts)
  if config.kind == _strokes.KIND:
    return _strokes.build(texts)
  if config.kind == "alphabet":
    path = _path(config, "a text file that holds all characters")
    return kinds.Characters(sorted(set(files.text(path))), {})
  if config.kind == "file":
    path = _path(
        config, "a tokenizer.json, a SentencePiece .model, or a folder with one")
    return load(epath.Path(path).expanduser())
  raise errors.UserError(
      f"tokenizer.kind={config.kind!r}: must be bytes, characters, bpe,"
      " words, strokes, alphabet or file.")


def load(path: epath.PathLike, rows: int = tokenizer_folders.MANY) -> Tokenizer:
  """Loads a tokenizer.

  Args:
    path: A folder that `save` wrote; a `tokenizer.json` of Hugging Face or a
      SentencePiece `.model`; a list of tokens, see `token_lists`; or a folder with one
      of the first two, with GPT-2's `vocab.json` and `merges.txt`, with BERT's
      `vocab.txt`, or with Marian's `source.spm`, `target.spm` and `vocab.json`. In a
      folder, other files name special and added tokens, see `special_tokens`.
    rows: Tokens that were added with this id or more are left out.

  Raises:
    errors.UserError: If there is nothing at `path`, or nothing of these forms.
  """
  files.patterns.remote.check(path)
  path = epath.Path(path)
  if not path.exists():
    raise errors.UserError(
        f"tokenizer.path={str(path)!r}: there is no such file or folder. Give a"
        " tokenizer.json, a SentencePiece .model, a list of tokens, or a folder with"
        " one of the first two.")
  try:
    return tokenizer_folders.read(path, rows)
  except errors.UserError as error:
    if str(path) in str(error):
      raise
    raise errors.UserError(f"{path}: {error}") from error


def of_run(workdir: epath.Path) -> Tokenizer | None:
  """Loads the tokenizer of a workdir; None if it has none.

  Raises:
    errors.UserError: As `load`, or if its folder is a link that leads elsewhere.
  """
  folder = workdir / FOLDER
  return load(tokenizer_folders.inside(folder)) if folder.exists() else None


def fingerprint(tokenizer: Tokenizer) -> str:
  """sha256 of the files that a tokenizer is saved as."""
  digest = hashlib.sha256()
  with tempfile.TemporaryDirectory() as folder:
    tokenizer.save(epath.Path(folder) / FOLDER)
    # All folders in it, because a tokenizer of two sides has one for each.
    for path in sorted(pathlib.Path(folder, FOLDER).rglob("*")):
      if path.is_file():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
  return digest.hexdigest()


def within(tokenizer: Tokenizer, rows: int) -> Tokenizer:
  """Returns a tokenizer without the tokens whose id is `rows` or more.

  Raises:
    errors.UserError: If it needs one of them, or its kind cannot lose any.
  """
  if not hasattr(tokenizer, "within"):
    raise errors.UserError(
        f"a tokenizer of {tokenizer.size} tokens of this kind cannot be cut to {rows}.")
  cut: Any = tokenizer  # It has the method.
  return cut.within(rows)


def for_encoder(tokenizer: Tokenizer) -> Tokenizer:
  """Returns the tokenizer for an encoder's inputs.

  Most tokenizers are their own; those of translation models have one for each side,
  with the same ids or, where `own_encoder` is true, with ids of its own.
  """
  return getattr(tokenizer, "for_encoder", tokenizer)


def own_encoder(tokenizer: Tokenizer) -> Tokenizer | None:
  """Returns the tokenizer for an encoder's inputs if its ids are its own, else None."""
  return for_encoder(tokenizer) if isinstance(tokenizer, pieces.BothSides) else None


def for_both_sides(inputs: Tokenizer, targets: Tokenizer) -> Tokenizer:
  """Returns a tokenizer that reads texts with `inputs` and writes with `targets`.

  Raises:
    errors.UserError: If one of them has two sides itself.
  """
  if for_encoder(inputs) is not inputs or for_encoder(targets) is not targets:
    raise errors.UserError(
        "A tokenizer of one side has two sides itself, as those of Marian do. Name it"
        " once, as the tokenizer of both.")
  return pieces.BothSides(inputs, targets)


def resolve_roles(tokenizer: Tokenizer) -> tuple[dict[str, int], list[str]]:
  """Returns the ids of all `ROLES`, and a note for each role that has a stand-in.

  If bos, sep or pad is missing, eos stands in for it; padding has weight 0, so its
  token does not matter. If eos is missing, bos stands in for it. If both are missing,
  as in many vocabularies of characters, only pad is returned: texts follow each other
  without special tokens.
  """
  roles = {role: tokenizer.roles[role] for role in ROLES if role in tokenizer.roles}
  # Without either there is no token that could end a text, so none is made up.
  if not {"bos", "eos"} & roles.keys():
    return {"pad": roles.get("pad", 0)}, [
        "the tokenizer has neither bos nor eos: texts run on without marks"]
  notes = []
  stand_ins = {"eos": "bos", "bos": "eos", "sep": "eos", "pad": "eos"}
  for role, stand_in in stand_ins.items():
    if role not in roles:
      roles[role] = roles[stand_in]
      notes.append(f"the tokenizer has no {role}: {stand_in} stands for it")
  return {role: roles[role] for role in ROLES}, notes


def _path(config: config_lib.Tokenizer, what: str) -> str:
  if not config.path:
    raise errors.UserError(
        f"tokenizer.kind={config.kind} needs tokenizer.path: {what}.")
  return config.path


def _marked(tokenizer: Tokenizer, sentinels: int) -> Tokenizer:
  return pieces.Marked(tokenizer, sentinels) if sentinels else tokenizer


def _train_bpe(size: int, sentinels: int, texts: Iterable[str]) -> kinds.HuggingFace:
  """Trains byte-level BPE, which can encode every text and decodes it exactly."""
  import tokenizers  # Here, because only some kinds need the library.
  special = [*kinds.OWN.values(), *pieces.mark_names(sentinels)]
  smallest = len(special) + 256
  if size < smallest:
    raise errors.UserError(
        f"tokenizer.size={size}: byte-level BPE needs at least {smallest} tokens (256"
        f" bytes and {len(special)} special ones).")
  # All 256 bytes are in the alphabet, also those that the training texts lack: then
  # there is no unknown token. Special tokens come first and so get the ids 0 to 3.
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False)
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  tokenizer.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
      vocab_size=size, show_progress=False, special_tokens=special,
      initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
  return kinds.HuggingFace(tokenizer)
