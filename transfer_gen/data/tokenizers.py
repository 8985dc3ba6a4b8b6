"""Tokenisers: bytes, characters, BPE, and what others have trained.

A tokeniser's file is data: nothing in it runs.
"""

from collections.abc import Iterable, Mapping, Sequence
import json
from typing import Any, Protocol

from etils import epath

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import files
from transfer_gen.data import tokenizer_kinds as kinds
from transfer_gen.data import tokenizer_pieces as pieces

ROLES = kinds.ROLES
FOLDER = "tokenizer"  # In a workdir.


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
    """Returns the text of ids without special tokens.

    Bytes that are not UTF-8 become U+FFFD.
    """
    ...

  def save(self, folder: epath.Path) -> None:
    """Writes the files that `load` reads."""
    ...


def build(config: config_lib.Tokenizer, texts: Iterable[str]) -> Tokenizer:
  """A tokeniser as the config says, trained on `texts` where its kind learns.

  The same texts in the same order give the same tokeniser.

  Raises:
    errors.UserError: An unknown kind, a size that is too small, no such file.
  """
  if config.kind == "bytes":
    return kinds.Bytes()
  if config.kind == "characters":
    return kinds.Characters(sorted(set().union(*map(set, texts))))
  if config.kind == "bpe":
    return _train_bpe(config.size, texts)
  if config.kind == "alphabet":
    if not config.path:
      raise errors.UserError(
          "tokenizer.kind=alphabet needs tokenizer.path: a text of all characters.")
    return kinds.Characters(sorted(set(files.text(config.path))), {})
  if config.kind == "file":
    if not config.path:
      raise errors.UserError(
          "tokenizer.kind=file needs tokenizer.path: a tokenizer.json, a"
          " SentencePiece .model, or a folder with one.")
    return load(epath.Path(config.path).expanduser())
  raise errors.UserError(
      f"tokenizer.kind={config.kind!r}: must be bytes, characters, bpe,"
      " alphabet or file.")


def load(path: epath.PathLike) -> Tokenizer:
  """Reads a tokeniser.

  Args:
    path: A folder that `save` wrote; a `tokenizer.json` of Hugging Face, a
      SentencePiece `.model`, or a folder with one of them, with GPT-2's
      `vocab.json` and `merges.txt`, or with Marian's `source.spm`, `target.spm` and
      `vocab.json`.

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


def for_encoder(tokenizer: Tokenizer) -> Tokenizer:
  """The tokenizer of what an encoder reads; its ids are those of the given one."""
  return getattr(tokenizer, "for_encoder", tokenizer)


def resolve_roles(tokenizer: Tokenizer) -> tuple[dict[str, int], list[str]]:
  """Ids of `ROLES`, and a sentence for each that another token plays.

  End of text stands for a missing bos, sep or pad (padding has weight 0); a
  missing end of text is played by bos. Without either, as in many vocabularies of
  characters, there is a pad alone: texts have no marks and run on.
  """
  roles = {role: tokenizer.roles[role] for role in ROLES if role in tokenizer.roles}
  if not {"bos", "eos"} & roles.keys():
    return {"pad": roles.get("pad", 0)}, [
        "the tokeniser has neither bos nor eos: texts run on without marks"]
  notes = []
  stand_ins = {"eos": "bos", "bos": "eos", "sep": "eos", "pad": "eos"}
  for role, stand_in in stand_ins.items():
    if role not in roles:
      roles[role] = roles[stand_in]
      notes.append(f"the tokeniser has no {role}: {stand_in} stands for it")
  return {role: roles[role] for role in ROLES}, notes


def _train_bpe(size: int, texts: Iterable[str]) -> kinds.HuggingFace:
  """Byte-level BPE: every text can be encoded, and decoding gives it back."""
  import tokenizers
  smallest = len(kinds.OWN) + 256
  if size < smallest:
    raise errors.UserError(
        f"tokenizer.size={size}: byte-level BPE needs at least {smallest} tokens (256"
        f" bytes and {len(kinds.OWN)} special ones).")
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False)
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  tokenizer.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
      vocab_size=size, show_progress=False, special_tokens=list(kinds.OWN.values()),
      initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
  return kinds.HuggingFace(tokenizer)


def _load_folder(folder: epath.Path) -> Tokenizer:
  if (folder / kinds.KIND_FILE).exists():
    saved = json.loads(_text(folder / kinds.KIND_FILE))
    if saved["kind"] == "bytes":
      return kinds.Bytes()
    if saved["kind"] == "characters":
      return kinds.Characters(saved["characters"], saved.get("roles"))
  if all((folder / name).exists() for name in pieces.FILES):
    return pieces.load(folder)
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
    return kinds.SentencePiece(path.read_bytes())
  if path.suffix == ".json":
    import tokenizers
    return kinds.HuggingFace(tokenizers.Tokenizer.from_str(_text(path)))
  raise errors.UserError(
      f"{path}: a tokeniser's file is a tokenizer.json or a SentencePiece .model.")


def _load_gpt2(vocab: epath.Path, merges: epath.Path) -> Tokenizer:
  """Byte-level BPE in the two files that GPT-2 was published in."""
  import tokenizers  # pylint: disable=g-import-not-at-top
  pairs: Any = [
      tuple(line.split(" ")) for line in _text(merges).split("\n")
      if line and not line.startswith("#version")]
  ids = json.loads(_text(vocab))
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=ids, merges=pairs))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False)
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  tokenizer.add_special_tokens(
      [token for tokens in kinds.USUAL.values() for token in tokens if token in ids])
  return kinds.HuggingFace(tokenizer)


def _text(path: epath.Path) -> str:
  return path.read_bytes().decode("utf-8")  # Whatever the locale says.
