"""What architectures of Hugging Face Transformers share, for reading and writing.

A family says how its `config.json` and a model of ours follow from each other, and
where leaves lie. Whether it can hold a model is seen by writing the config and reading
it back: a field that comes back with another value is what the family has no place for.
"""

from collections.abc import Callable, Collection, Mapping
import dataclasses
import math
from typing import Any

import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.data import tokenizers
from transfer_gen.maps import architecture as architecture_lib
from transfer_gen.maps import hugging_face_fields as fields_lib
from transfer_gen.maps import layouts
from transfer_gen.models import decoder_config

# What the file of an architecture needs of the fields of its `config.json`.
Fields, activation, rope = fields_lib.Fields, fields_lib.activation, fields_lib.rope
decoding = fields_lib.decoding
generation_fields = fields_lib.generation_fields
FILES = ("tokenizer.json", *tokenizers.MODELS, "source.spm", "vocab.txt", "target.spm",
         "vocab.json", "target_vocab.json", "merges.txt",
         "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
         "chat_template.jinja", "chat_template.json")
_TEXTS = ("tokenizer.json", *tokenizers.MODELS, "vocab.json", "vocab.txt")
# Constants that older versions saved with the weights: positions counted from 0, angles
# that follow from the config, and the number that stands for minus infinity.
_BUFFERS = r"(.*\.)?(position_ids|(original_)?inv_freq|masked_bias)"
# What no checkpoint says; marks around a source are the tokenizer's there.
_OURS = {"init", "dropout", "dtype", "remat", "attention_implementation",
         "encoder_marks"}
_Tokenizer = tuple[tokenizers.Tokenizer | None, tuple[str, ...]] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """Architectures that share their names.

  Attributes:
    name: Name of the map, the value of `Source.map`.
    what: Which checkpoints the family reads, in one line for messages.
    types: Class that Transformers loads, by value of `model_type`.
    anchor: Name of a leaf that all checkpoints have, without prefix; by it the prefix
      is found.
    prefixes: Prefixes that all names may have. The first is the one that is written.
    model: Takes the fields of a `config.json` and its `model_type`, and returns the
      config of our model.
    config: Takes a model of ours and returns the fields of `config.json` for it.
    lines: Takes a model and a prefix, and returns where the leaves lie.
    unused: Regexes for leaves that are saved and not needed, without the prefix.
    kept: Regexes for unused leaves, by their whole names, that are weights of another
      output: a folder that is written from such a checkpoint has them as well.
    kind: Class of our models' config. Default: `Decoder`.
    inside: For each `model_type` that combines a model of the family with others (e.g.
      text with images): the field of its config that holds the model's own config, and
      defaults for fields that it leaves out.
    others: Regexes for leaves of those other models, by their whole names.
    outputs: Names of a tied output, under which the table of tokens may be stored too.
    copies: Takes a model and returns further groups of names of one leaf.
    older: Ends of names that older versions wrote, with what they are now.
    tokenizer: As the field of that name in `architecture_lib.Architecture`. By default
      it reads the files beside the checkpoint.
  """
  name: str
  what: str
  types: Mapping[str, str]
  anchor: str
  prefixes: tuple[str, ...]
  model: Callable[[fields_lib.Fields, str], config_lib.Decoder]
  # Any model: that of `kind`, which may be an EncoderDecoder.
  config: Callable[[Any], dict[str, Any]]
  lines: Callable[[Any, str], list[architecture_lib.Line]]
  unused: tuple[str, ...] = ()
  kept: tuple[str, ...] = ()
  kind: type = config_lib.Decoder
  inside: Mapping[str, tuple[str, Mapping[str, Any]]] = dataclasses.field(
      default_factory=dict)
  others: tuple[str, ...] = ()
  outputs: tuple[str, ...] = ("lm_head.weight", "embed_out.weight")
  copies: Callable[[Any], tuple[tuple[str, ...], ...]] = lambda model: ()
  older: Mapping[str, str] = dataclasses.field(default_factory=dict)
  tokenizer: Callable[[architecture_lib.Raw, Any, bool], _Tokenizer] = (
      lambda raw, model, repair: tokenizer_beside(raw, model, repair))


def architecture(family: Family) -> architecture_lib.Architecture:
  """Returns the map of a family, as `maps.shipped` lists it."""
  return architecture_lib.Architecture(
      name=family.name, what=family.what,
      recognizes=lambda raw: type_of(raw) in {**family.types, **family.inside},
      model=lambda raw: _model(family, raw),
      lines=lambda raw, model: lines(family, model, raw.specs),
      tokenizer=family.tokenizer)


def read(
    family: Family, where: str, fields: Mapping[str, Any],
    names: Collection[str], most: float = math.inf,
    idle: dict[str, bool] | None = None,
) -> config_lib.Decoder:
  """Returns the model of ours that a `config.json` describes.

  Args:
    family: The family that it belongs to.
    where: Where it was read, for messages.
    fields: The contents of `config.json`.
    names: Names of the checkpoint's tensors.
    most: Largest number of layers to accept. By default any number is.
    idle: See `architecture.refuse_unknown`.

  Raises:
    errors.UserError: If no model of ours has a field; the message names it.
  """
  asked = fields_lib.Fields(where, fields, names, most, idle)
  model = family.model(asked, fields["model_type"])
  asked.finish()
  return model


def write(family: Family, model: config_lib.Decoder) -> dict[str, Any]:
  """Returns the `config.json` for a model of ours.

  Raises:
    errors.UserError: If the family cannot express fields; the message lists them.
  """
  if type(model) is not family.kind:
    raise errors.UserError(
        f"{family.name} is a {family.kind.__name__}, and the model a"
        f" {type(model).__name__}.")
  fields = family.config(model)
  fields.setdefault("architectures", [family.types[fields["model_type"]]])
  names = {source for line in lines(family, model).lines for source in line.sources}
  # Reading back is the check: whatever the written config does not express shows as a
  # difference, so that no list of unsupported fields has to be kept.
  back = decoder_config.explicit(read(family, family.name, fields, names))
  if differ := _differences(decoder_config.explicit(model), back):
    raise errors.UserError(
        f"{family.name} cannot hold this model: {'; '.join(differ)}.")
  return fields | {"dtype": "float32", "use_cache": True}


def check_padding(fields: Mapping[str, Any], roles: Mapping[str, int]) -> None:
  """Refuses a model whose positions Transformers would count otherwise.

  Args:
    fields: The `config.json` that is written.
    roles: Ids of the tokenizer's special tokens.

  Raises:
    errors.UserError: If the padding of the tokenizer is not that of the model.
  """
  for part in (fields, *(fields.get(side) or {} for side in ("encoder", "decoder"))):
    wanted, own = part.get("pad_token_id"), roles.get("pad")
    if wanted is not None and own is not None and wanted != own:
      raise errors.UserError(
          f"In Transformers a {part['model_type']} counts positions by its padding"
          f" token, which must be {wanted}, and the tokenizer's is {own}: texts with"
          f" token {wanted} would be read otherwise there. Keep the source's tokenizer,"
          " or write --to=orbax.")


def lines(
    family: Family, model: config_lib.Decoder, names: Collection[str] = ()
) -> architecture_lib.Map:
  """Returns the map for a checkpoint of these names; () means one that we write."""
  # A model saved without its head lacks what stands before the names, so the name of
  # the embedding decides.
  prefix = next((p for p in family.prefixes if p + family.anchor in names), None)
  if prefix is None:  # The embedding may be stored under another name.
    prefix = next((p for p in family.prefixes if p and any(
        name.startswith(p) for name in names)), family.prefixes[
            -1 if names or not getattr(model, "head", True) else 0])
  unused = (prefix.replace(".", r"\.") + pattern for pattern in family.unused)
  found = tuple(family.lines(decoder_config.explicit(model), prefix))
  older = tuple(
      (name.removesuffix(end) + now, name) for name in names
      for end, now in family.older.items() if name.endswith(end))
  return architecture_lib.Map(
      lines=found, unused=(*unused, *family.others, _BUFFERS),
      copies=(*_copies(family, model, prefix, found), *family.copies(model), *older))


def _copies(family, model, prefix, found) -> tuple[tuple[str, ...], ...]:
  """Returns the names that the table of tokens may have in a file, as one group."""
  table = next((line.sources for line in found if line.target == "embed/embedding"), ())
  both = isinstance(model, config_lib.EncoderDecoder) and not model.encoder_vocab_size
  names = (
      *table, *(f"{prefix}{side}.embed_tokens.weight" for side in (
          "encoder", "decoder") if both),
      *(family.outputs if model.tied else ()))
  return (tuple(dict.fromkeys(names)),) if table else ()


def kept(family: Family, view: architecture_lib.Mapped) -> list[str]:
  """Returns the leaves of a checkpoint that `Family.kept` is about."""
  left = architecture_lib.unread(view.how, view.raw.specs, view.rows.values())
  return [name for name in left if tree.match(family.kept, name)]


def specs_before(
    how: architecture_lib.Map, specs: Mapping[str, tree.Spec],
    dtypes: Mapping[str, np.dtype]) -> dict[str, tree.Spec]:
  """Returns the specs of a checkpoint from which a map reads our leaves.

  Args:
    how: The checkpoint's map.
    specs: Specs of our leaves.
    dtypes: Stored dtype by our names. Other leaves keep the dtype of their spec.
  """
  found = {}
  for name, spec in specs.items():
    matched = tree.match([line.target for line in how.lines], name)
    assert matched is not None, f"no line for {name}"
    index, match = matched
    line = how.lines[index]
    source, = (match.expand(template) for template in line.sources)
    found[source] = tree.Spec(
        shape=_before(line.layout, spec.shape), dtype=dtypes.get(name, spec.dtype),
        axes=(), reads=())
  return found


def tokenizer_beside(
    raw: architecture_lib.Raw, model: config_lib.Decoder, repair: bool = False
) -> _Tokenizer:
  """Reads the tokenizer from the usual files beside a checkpoint.

  Args:
    raw: The checkpoint.
    model: Config of the model, whose table has a row for each token.
    repair: Whether tokens without a row are left out, also those of the vocabulary
      itself. By default only added ones are.

  Raises:
    errors.UserError: If there are more tokens than rows.
  """
  found = [path for name in _TEXTS if (path := architecture_lib.beside(raw, name))]
  if not found:
    return None
  tokenizer = tokenizers.load(found[0].parent)
  if tokenizer.size <= model.vocab_size:
    return tokenizer, ()
  # Whoever adds a token must add a row, and it is easy to forget.
  fitting = tokenizers.load(found[0].parent, rows=model.vocab_size)
  count, which = tokenizer.size - model.vocab_size, "added "
  if fitting.size > model.vocab_size:
    if not repair:
      raise errors.UserError(
          f"{found[0]}: it has {tokenizer.size} tokens, and the model"
          f" {model.vocab_size} rows. It may be the tokenizer of another model; if not,"
          " --vocabulary=repair (source.vocabulary in a config) leaves out the tokens"
          " without a row.")
    fitting, which = tokenizers.within(fitting, model.vocab_size), ""
  return fitting, (
      f"{found[0]}: {count} of its {which}tokens have no row in the model and are left"
      f" out{_shown(tokenizer, model.vocab_size)}.",)


def _shown(tokenizer: tokenizers.Tokenizer, rows: int) -> str:
  """Names the texts that lose their token."""
  texts = [text.decode("utf-8", "replace") for text in tokenizer.tokens[rows:] if text]
  more = ", ..." if texts[8:] else ""
  return f": {', '.join(map(repr, texts[:8]))}{more}" if texts else ""


def type_of(raw: architecture_lib.Raw) -> str:
  """Returns the `model_type` in a checkpoint's `config.json`; "" if it has none."""
  path = architecture_lib.beside(raw, "config.json")
  return str(architecture_lib.read_json(path).get("model_type")) if path else ""


def _model(family: Family, raw: architecture_lib.Raw) -> config_lib.Decoder:
  path = architecture_lib.beside(raw, "config.json")
  if path is None:
    raise errors.UserError(
        f"{raw.path}: there is no config.json beside it, which describes the model."
        " Fetch it too.")
  fields = architecture_lib.read_json(path)
  if "model_type" not in fields:
    raise errors.UserError(
        f"{path}: it has no model_type. Add it: the map {family.name} reads"
        f" {', '.join(family.types)}.")
  if (kind := fields["model_type"]) in family.inside:
    # Whether tables are tied stands outside, beside the config of the text part; what
    # that part leaves out has its class's default.
    name, habit = family.inside[kind]
    fields = {"tie_word_embeddings": fields.get("tie_word_embeddings", True),
              **habit, **fields[name]}
  return read(family, str(path), fields, raw.specs, len(raw.specs), raw.idle)


def _differences(own: config_lib.Decoder, back: config_lib.Decoder) -> list[str]:
  """Describes the fields in which what was read back is not the model itself."""
  names = {field.name for field in dataclasses.fields(own)} - _OURS
  both = {name: (getattr(own, name), getattr(back, name)) for name in sorted(names)}
  return [f"model.{name} is {ours!r}, and it has {theirs!r}"
          for name, (ours, theirs) in both.items() if ours != theirs]


def _before(layout: layouts.Layout, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the shape that a layout of a family turns into `shape`."""
  if isinstance(layout, layouts.Chain):
    for part in reversed(layout.parts):
      shape = _before(part, shape)
    return shape
  if isinstance(layout, layouts.Transpose):
    return tuple(shape[layout.perm.index(dim)] for dim in range(len(shape)))
  if isinstance(layout, layouts.Unflatten):
    end = layout.dim + len(layout.shape)
    return shape[:layout.dim] + (math.prod(layout.shape),) + shape[end:]
  if isinstance(layout, layouts.Unstack):  # The last of its entries, in families.
    return shape[:layout.dim] + (layout.index + 1,) + shape[layout.dim:]
  assert isinstance(layout, layouts.Part) and isinstance(layout.parts, int)
  dim = layout.dim
  return shape[:dim] + (shape[dim] * layout.parts,) + shape[dim + 1:]
