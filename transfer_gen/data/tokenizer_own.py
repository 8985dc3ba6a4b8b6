"""Tokenizers of the kinds that this package saves in a form of its own."""

from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from transfer_gen.data import special_tokens
from transfer_gen.data import stroke_tokenizer as strokes
from transfer_gen.data import token_lists
from transfer_gen.data import tokenizer_kinds as kinds
from transfer_gen.data import tokenizer_pieces as pieces
from transfer_gen.data import tokenizer_sentencepiece

SentencePiece = tokenizer_sentencepiece.SentencePiece


# Kinds that were saved before roles were stored have those of their usual names.
def saved(
    folder: epath.Path, found: Mapping[str, Any], read: Callable[[epath.Path], Any]
) -> Any:
  """Returns a tokenizer that was saved, or None if it is a `tokenizer.json`.

  Args:
    folder: Where it was saved.
    found: What its file of the kind says.
    read: Reads the folder of a tokenizer that is a part of it.
  """
  kind = found["kind"]
  if kind == "bytes":
    return kinds.Bytes()
  if kind == "characters":
    return kinds.Characters(found["characters"], found.get("roles"))
  if kind == token_lists.KIND:
    return token_lists.Words(found["words"])
  if kind == strokes.KIND:
    return strokes.Strokes(found["scale"])
  if kind == pieces.BOTH:
    return pieces.BothSides(*(read(folder / side) for side in pieces.SIDES))
  if kind == pieces.MARKED:
    return pieces.Marked(read(folder / pieces.MARKED), found["sentinels"])
  if kind == pieces.KIND:
    return pieces.load(folder)
  if kind == tokenizer_sentencepiece.KIND:
    return SentencePiece(
        special_tokens.read_bytes(folder / "tokenizer.model"), added=found.get("added"),
        special=found.get("special", ()), roles=found.get("roles"),
        start_only=found.get("start_only", False))
  return None
