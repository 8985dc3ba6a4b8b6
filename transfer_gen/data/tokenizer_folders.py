"""Finds and reads the files of tokenizers, in a folder or by name."""

import json
import re
from typing import Any

from etils import epath

from transfer_gen import errors
from transfer_gen.data import special_tokens
from transfer_gen.data import token_lists
from transfer_gen.data import tokenizer_kinds as kinds
from transfer_gen.data import tokenizer_own
from transfer_gen.data import tokenizer_pieces as pieces

inside = special_tokens.inside
SentencePiece, strokes = tokenizer_own.SentencePiece, tokenizer_own.strokes
train_words = token_lists.train_words
MANY = 2**31  # More rows than any model has.
# The SentencePiece models that Transformers looks for, of which a folder has one.
MODELS = ("tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model")
# Classes of Transformers that count a model's pieces otherwise than it does itself, as
# Fairseq did; a model of the name below belongs to one of them if nothing is said.
_SHIFTED = re.compile(
    r"(XLMRoberta|Camembert|MBart|MBart50|Nllb|XGLM|Barthez|PLBart|M2M100|Pegasus)"
    r"Tokenizer(Fast)?")
_OF_SHIFTED = "sentencepiece.bpe.model"
_FORMS = ("tokenizer.json, one SentencePiece .model, vocab.json with merges.txt, or"
          " vocab.txt")


@kinds.as_user_errors()
def read(path: epath.Path, rows: int) -> Any:
  """Returns the tokenizer of a file or a folder.

  Args:
    path: The file or the folder.
    rows: In a folder that others have written, added tokens with this id or more are
      left out.

  Raises:
    errors.UserError: If there is none.
  """
  if not path.is_dir():
    return _file(path)
  saved = special_tokens.read_json(path / kinds.KIND_FILE)
  if saved:
    special_tokens.check_saved(saved)
  tokenizer = _saved(path, saved) if saved else _found(path, rows)
  if saved and not all(row < tokenizer.size for row in tokenizer.roles.values()):
    raise errors.UserError(
        f"{path / kinds.KIND_FILE}: a role has an id that the tokenizer lacks. Restore"
        " the file from a copy.")
  if isinstance(tokenizer, (kinds.HuggingFace, SentencePiece)):
    tokenizer.load_chat(path)
  return tokenizer


def _saved(folder, saved) -> Any:
  """Returns a tokenizer that this package has saved."""
  found = tokenizer_own.saved(folder, saved, _inner)
  return kinds.HuggingFace(
      _json(folder / "tokenizer.json"), saved.get("roles")) if found is None else found


def _inner(folder) -> Any:
  return read(inside(folder), MANY)


# Marian's files come before GPT-2's, because both have a vocab.json.
def _found(folder, rows) -> Any:
  """Returns the tokenizer of a folder that others have written."""
  if all((folder / name).exists() for name in pieces.FILES):
    return pieces.load(folder)
  named = special_tokens.read(folder).within(rows)
  models = sorted(path for path in folder.iterdir() if path.suffix == ".model")
  if (folder / "tokenizer.json").exists():
    return _named(_json(folder / "tokenizer.json", rows), named)
  usual = [path for path in models if path.name in MODELS]
  for chosen in (usual, models):
    if len(chosen) == 1:
      return _sentencepiece(chosen[0], named, rows)
  if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
    return _named(_gpt2(folder), named)
  if (folder / "vocab.txt").exists():
    return _named(_bert(folder), named)
  several = f" Several are {', '.join(path.name for path in models)}." if models else ""
  raise errors.UserError(
      f"{folder}: the folder holds no tokenizer, or several: one of {_FORMS} is wanted."
      f"{several} Give the path of the file itself.")


def _file(path) -> Any:
  if path.suffix == ".model":
    return SentencePiece(special_tokens.read_bytes(path))
  if token_lists.recognizes(path):
    return token_lists.read(path).tokenizer
  if path.suffix == ".json":
    return kinds.HuggingFace(_json(path))
  raise errors.UserError(
      f"{path}: the file of a tokenizer must be a tokenizer.json, a SentencePiece"
      " .model, or a list of tokens (.json or .txt).")


def _named(tokenizer, named) -> kinds.HuggingFace:
  """Returns a tokenizer with the tokens and roles that files beside it name."""
  # An id of the vocabulary wins over what stands beside it, as in Transformers.
  known = dict(named.added) | {
      name: row for name in (*named.special, *named.added)
      if (row := tokenizer.token_to_id(name)) is not None}
  added = set(kinds.HuggingFace(tokenizer).special)
  for name in sorted(known.keys() - added, key=known.__getitem__):
    if name in named.special:
      tokenizer.add_special_tokens([name])
    else:
      tokenizer.add_tokens([name])
    if tokenizer.token_to_id(name) != known[name]:
      raise errors.UserError(
          f"the added token {name!r} has the id {known[name]}, and ids before it are"
          f" missing. Correct {special_tokens.ADDED} or {special_tokens.CONFIG}.")
  usual = kinds.HuggingFace(tokenizer)
  roles = named.resolved(usual.roles, usual.special)
  return usual if roles == usual.roles else kinds.HuggingFace(tokenizer, roles)


def _sentencepiece(path, named, rows) -> SentencePiece:
  said = special_tokens.read_json(path.parent / special_tokens.CONFIG).get(
      "tokenizer_class")
  if _SHIFTED.fullmatch(str(said)) or (said is None and path.name == _OF_SHIFTED):
    raise errors.UserError(
        f"{path}: {said or 'its class'} has other ids than the pieces of the model"
        " (tokenizer_class says which, if it is none of Fairseq's). Let Transformers"
        " write a tokenizer.json (AutoTokenizer.from_pretrained, save_pretrained), and"
        " put it beside the model.")
  model = special_tokens.read_bytes(path)
  usual = SentencePiece(model)
  extra = special_tokens.extra_ids(named.special, usual.size)
  # Some of them would have other numbers than those that the model was trained with.
  extra = extra if max(extra.values(), default=0) < rows else {}
  added = {**extra, **named.added}
  with_added = SentencePiece(model, added=added, special=named.special)
  roles = named.resolved(usual.roles, with_added.special)
  return SentencePiece(model, added=added, special=named.special, roles=roles,
                       start_only=special_tokens.starts_once(path.parent))


def _json(path, rows=MANY):
  import tokenizers  # Here, because only some kinds need the library.
  text, described = special_tokens.read_text(path), special_tokens.read_json(path)
  kept = [token for token in described.get("added_tokens", ()) if token["id"] < rows]
  if len(kept) < len(described.get("added_tokens", ())):
    text = json.dumps({**described, "added_tokens": kept})
  return tokenizers.Tokenizer.from_str(text)


def _gpt2(folder):
  """Returns byte-level BPE from the two files in which GPT-2 was published."""
  import tokenizers  # Here, because only some kinds need the library.
  merges = folder / "merges.txt"
  config = special_tokens.read_json(folder / special_tokens.CONFIG)
  # The first line of merges.txt is a version; each other line holds two pieces.
  pairs: Any = [
      tuple(line.split(" ")) for line in special_tokens.read_text(merges).split("\n")
      if line and not line.startswith("#version")]
  ids = special_tokens.read_json(folder / "vocab.json")
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=ids, merges=pairs))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=bool(config.get("add_prefix_space", False)))
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  _mark_usual(tokenizer, ids)
  return tokenizer


def _bert(folder):
  """Returns pieces of words from the file in which BERT was published."""
  import tokenizers  # Here, because only some kinds need the library.
  lines = special_tokens.read_text(folder / "vocab.txt").removesuffix("\n").split("\n")
  config = special_tokens.read_json(folder / special_tokens.CONFIG)
  ids = {line.rstrip("\r"): i for i, line in enumerate(lines)}
  tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(
      vocab=ids, unk_token="[UNK]"))
  tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
      lowercase=config.get("do_lower_case", True),
      strip_accents=config.get("strip_accents"),
      handle_chinese_chars=config.get("tokenize_chinese_chars", True))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  tokenizer.decoder = tokenizers.decoders.WordPiece()
  _mark_usual(tokenizer, ids)
  return tokenizer


def _mark_usual(tokenizer, ids) -> None:
  """Makes the tokens special that usually are."""
  usual = (name for names in kinds.USUAL.values() for name in names)
  tokenizer.add_special_tokens([
      name for name in (*usual, "[MASK]", "<mask>") if name in ids])
