r"""Vocabularies that a user names for checkpoints of other frameworks.

Keras's `.h5` and `.keras` files and arrays of NumPy hold weights alone. What their rows
stand for is then the value of `Source.tokenizer`, or of `--tokenizer`.

A model of pairs whose sides have alphabets of their own needs a file for each,
`inputs|targets`. Where nothing else says how answers begin and end, and only the
alphabet of the targets has a tab and a line break, these are its marks: so they are in
the sequence-to-sequence example of Keras, which adds them to each target.
"""

import dataclasses
from typing import Any

from etils import epath

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import token_lists
from transfer_gen.data import tokenizer_kinds
from transfer_gen.data import tokenizers
from transfer_gen.sources import source as source_lib

_FORMS = (
    "a tokenizer.json, a SentencePiece .model, a folder with one, a JSON object from"
    " each token to its row, or a list of tokens (.json, .txt, fastai's .pkl); for two"
    " alphabets inputs|targets")
# Parts of the names of files that may hold a vocabulary, and their suffixes.
_PARTS = ("vocab", "token", "char", "word", "index", "alphabet", "spiece", "dict",
          "itos")
_SUFFIXES = (".json", ".txt", ".model", ".spm", ".tokens", ".vocab", ".pkl", ".pickle")
_SHOWN = 8
_MARKS = {"bos": "\t", "eos": "\n"}


def read(spec: str, model: source_lib.Model) -> source_lib.Given:
  """Reads the vocabulary of a model.

  Args:
    spec: Path of a file or folder, or `inputs|targets`.
    model: Config of the model whose tables have a row for each token.

  Raises:
    errors.UserError: If a file cannot be read, or is a vocabulary of another size than
      the model's table.
  """
  # A path that exists is a path, whatever characters it has.
  parts = [spec] if epath.Path(spec).expanduser().exists() else spec.split("|")
  if len(parts) > 2 or not all(map(str.strip, parts)):
    raise errors.UserError(
        f"source.tokenizer is {spec!r}, must be one path, or inputs|targets.")
  sides = [_side(epath.Path(part.strip()).expanduser()) for part in parts]
  whole = sides[0].tokenizer
  if (own := tokenizers.own_encoder(whole)) and not sides[1:]:
    # A folder that holds both sides, as that of a run does.
    parts, sides = parts * 2, [_Side(tokenizer=own), *sides]
  if not model.encodes:
    if sides[1:]:
      raise errors.UserError(
          f"source.tokenizer is {spec!r}, and the model has no encoder: it has one"
          " vocabulary. Give one path.")
    _check(parts[0], sides[0], model.vocab_size, "")
    notes = (whole.NOTE,) if isinstance(whole, token_lists.Words) else ()
    return source_lib.Given(tokenizer=whole, model=model, notes=notes)
  both: Any = model  # Models with an encoder have the field.
  _check(parts[0], sides[0], both.encoder_tokens, "encoder's ")
  _check(parts[-1], sides[-1], model.vocab_size, "decoder's ")
  notes = ()
  tokenizer = whole
  if sides[1:] and own is None:
    targets, notes = _marked(*(side.tokenizer for side in sides))
    tokenizer = tokenizers.for_both_sides(tokenizer, targets)
  model, more = _filled(model, sides[0])
  return source_lib.Given(tokenizer=tokenizer, model=model, notes=(*notes, *more))


def ask(path: epath.PathLike) -> str:
  """Returns sentences that ask for a vocabulary and name files beside a checkpoint.

  Args:
    path: File or folder of the checkpoint.
  """
  path = epath.Path(path)
  folder = path if path.is_dir() else path.parent
  found = sorted(
      p.name for p in folder.iterdir() if p.suffix in _SUFFIXES and p != path and any(
          part in p.name.lower() for part in (*_PARTS, ".model", ".spm")))
  beside = (f"Beside it lie {', '.join(found[:_SHOWN])}"
            f"{', ...' if found[_SHOWN:] else ''}." if found
            else "No file beside it looks like one.")
  return (f"{path} holds no vocabulary: give source.tokenizer (--tokenizer of `convert`"
          f" and `inspect`): {_FORMS}. {beside}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Side:
  """The tokenizer of a side; if a list, its number of rows and length of texts."""
  tokenizer: tokenizers.Tokenizer
  size: int = 0
  length: int = 0


def _side(path: epath.Path) -> _Side:
  if path.is_file() and token_lists.recognizes(path):
    listed = token_lists.read(path)
    return _Side(tokenizer=listed.tokenizer, size=listed.size, length=listed.length)
  return _Side(tokenizer=tokenizers.load(path))


def _check(path: str, side: _Side, rows: int, whose: str) -> None:
  size = side.size or side.tokenizer.size
  # Models of others round their tables up for the hardware. A list says what each row
  # is, and one of another length is the list of another model.
  if size > rows or (side.size and size != rows):
    raise errors.UserError(
        f"source.tokenizer: {path} has {size} tokens and the {whose}table of the"
        f" checkpoint {rows} rows. "
        + ("In a list, \"\" stands for a row without text." if size < rows else
           "It is the vocabulary of another model, or of its other side."))


def _marked(inputs, targets) -> tuple[tokenizers.Tokenizer, tuple[str, ...]]:
  """Returns the targets' tokenizer with the tokens that begin and end an answer."""
  if targets.roles.keys() & _MARKS.keys():
    return targets, ()
  ids = {role: targets.tokens.index(mark.encode()) for role, mark in _MARKS.items()
         if mark.encode() in targets.tokens and mark.encode() not in inputs.tokens}
  if (ids.keys() != _MARKS.keys()
      or not isinstance(targets, tokenizer_kinds.Characters)):
    raise errors.UserError(
        "source.tokenizer: nothing says which tokens begin and end an answer. Write the"
        " targets' file as {\"tokens\": [...], \"roles\": {\"bos\": \"...\", \"eos\":"
        " \"...\"}}, with the two tokens.")
  return targets.with_roles(ids), (
      "Answers begin with a tab and end with a line break, which the targets have and"
      " the inputs have not.",)


def _filled(
    model: source_lib.Model, side: _Side
) -> tuple[source_lib.Model, tuple[str, ...]]:
  """Returns the model with the length up to which it read its texts filled."""
  if not isinstance(model, config_lib.Recurrent):
    return model, ()
  if not side.length:
    return model, () if model.encoder_length else (
        "The encoder reads texts as they are. If it was trained on texts that were"
        " filled up, as in the example of Keras, say so in the inputs' file:"
        " {\"tokens\": [...], \"roles\": {\"pad\": \" \"}, \"length\": 16}.",)
  return dataclasses.replace(
      model, encoder_length=side.length, pad_token=side.tokenizer.roles["pad"]), (
          f"The encoder's texts are filled up to {side.length} tokens.",)
