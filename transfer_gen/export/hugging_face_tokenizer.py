"""Writes a tokenizer into a folder that Hugging Face Transformers loads."""

from collections.abc import Mapping
import json
from typing import Any

from etils import epath

from transfer_gen import config as config_lib
from transfer_gen.data import tokenizer_kinds
from transfer_gen.data import tokenizer_sentencepiece
from transfer_gen.data import tokenizers
from transfer_gen.export import merged
from transfer_gen.formats import whole

Tokenizer = tokenizers.Tokenizer
# In Transformers the tokenizer puts these marks, and with us the model's config says
# which there are.
_MASKS = ("[MASK]", "<mask>")
_MARKS = {"eos": ((), ("eos",)), "both": (("bos",), ("eos",))}  # Around a source.


# Which file there is decides: a Marian's own files are complete, and Transformers finds
# a SentencePiece model by its name, which is another for T5. `KIND_FILE` is ours, and
# nothing there reads it. The class that is named for `tokenizer.json` is the general
# one, which reads any such file, whatever the architecture.
def write(
    folder: epath.Path, model: config_lib.Decoder,
    tokenizer: tokenizers.Tokenizer | None,
) -> tuple[str, ...]:
  """Writes the file that Transformers reads, and the names of the special tokens.

  Args:
    folder: Folder of the model.
    model: Config of the model.
    tokenizer: The tokenizer, if there is one.

  Returns:
    A sentence if nothing was written.
  """
  if tokenizer is None:
    return (merged.NO_TOKENIZER,)
  if tokenizers.own_encoder(tokenizer) is not None:
    return ("Transformers has no tokenizer of two sides with ids of their own: none was"
            " written.",)
  tokenizer.save(folder)
  (folder / tokenizer_kinds.KIND_FILE).unlink()
  if (folder / "source.spm").exists():
    return ()
  if isinstance(tokenizer, tokenizer_sentencepiece.SentencePiece):
    pairs = isinstance(model, config_lib.EncoderDecoder)
    if pairs:  # As T5's is called.
      (folder / "tokenizer.model").rename(folder / "spiece.model")
    if not (pairs or tokenizer.is_bpe):
      return () if not tokenizer.added else (
          f"Transformers reads no Unigram tokenizer with added tokens here:"
          f" {', '.join(tokenizer.added)} are not in what was written.",)
    whole.write_json(folder / "tokenizer_config.json", _with_added(tokenizer, pairs))
    return ()
  if not (folder / "tokenizer.json").exists():
    return ("Transformers has no tokenizer of its kind: none was written.",)
  described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
  names = {token["id"]: token["content"] for token in described["added_tokens"]}
  marks = _MARKS.get(_marks(model, described), ((), ()))
  known = {role: (names[index], index) for role, index in tokenizer.roles.items()
           if index in names}
  if any(role in known for side in marks for role in side):
    described["post_processor"] = _template(marks, known)
    whole.write_json(folder / "tokenizer.json", described)
  whole.write_json(folder / "tokenizer_config.json", {
      "tokenizer_class": "PreTrainedTokenizerFast",
      **_named(tokenizer, names),
      **(_of_masks(tokenizer, names) if isinstance(model, config_lib.Encoder) else {})})
  return ()


def _marks(model: config_lib.Decoder, described: Mapping[str, Any]) -> str:
  """Returns which marks the tokenizer puts around a text, a key of `_MARKS`."""
  if isinstance(model, config_lib.Encoder):
    # As BERT was trained. A template that came with the file is better: RoBERTa's has
    # two marks between the texts of a pair.
    return "" if described.get("post_processor") else "both"
  return getattr(model, "encoder_marks", "")


def _of_masks(tokenizer, names: Mapping[int, str]) -> dict[str, str]:
  """Names the special tokens that only encoders have."""
  masks = [name for name in _MASKS if tokenizer.special.get(name) in names]
  roles = {"cls_token": "bos", "sep_token": "eos"}
  return {**{field: names[tokenizer.roles[role]] for field, role in roles.items()
             if tokenizer.roles.get(role) in names},
          **({"mask_token": masks[0]} if masks else {})}


def _named(tokenizer, names: Mapping[int, str]) -> dict[str, Any]:
  """Names special tokens by their role, and those that have none."""
  return {
      **{f"{role}_token": names[row] for role, row in tokenizer.roles.items()
         if row in names},
      # By the name that all versions of Transformers read.
      "additional_special_tokens": [
          names[row] for row in sorted(tokenizer.special.values())
          if row in names and row not in tokenizer.roles.values()]}


def _with_added(tokenizer, pairs) -> dict[str, Any]:
  """Names what was added to a SentencePiece model, as tokenizer_config.json has it."""
  names = {row: name for name, row in tokenizer.special.items()}
  if "unk" in tokenizer.roles:  # A role, and no special token of the model.
    names.setdefault(tokenizer.roles["unk"], "<unk>")
  # Without a class, Transformers takes the model for one of tiktoken.
  kind = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0} if pairs else {
      "tokenizer_class": "LlamaTokenizer", "add_bos_token": "bos" in tokenizer.roles,
      "legacy": not tokenizer.start_only}
  return {
      **kind,
      **_named(tokenizer, names),
      "added_tokens_decoder": {
          str(row): {"content": name, "special": name in tokenizer.special,
                     "lstrip": False, "rstrip": False, "normalized": False,
                     "single_word": False}
          for name, row in sorted(tokenizer.added.items(), key=lambda item: item[1])}}


# `type_id` is 0 throughout: no model here has segments. A pair gets the closing
# mark after each of its texts.
def _template(marks, known: Mapping[str, tuple[str, int]]) -> dict[str, Any]:
  """What puts marks around a text, as tokenizer.json has it."""
  sequence = lambda name: {"Sequence": {"id": name, "type_id": 0}}
  before, behind = ([
      {"SpecialToken": {"id": known[role][0], "type_id": 0}}
      for role in side if role in known] for side in marks)
  return {
      "type": "TemplateProcessing", "single": [*before, sequence("A"), *behind],
      "pair": [*before, sequence("A"), *behind, sequence("B"), *behind],
      "special_tokens": {
          name: {"id": name, "ids": [index], "tokens": [name]}
          for name, index in (known[role] for side in marks for role in side
                              if role in known)}}
