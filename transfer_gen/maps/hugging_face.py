"""What architectures of Hugging Face Transformers have in common, in and out.

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
FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "source.spm",
         "target.spm", "vocab.json", "target_vocab.json", "merges.txt",
         "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
         "chat_template.jinja", "chat_template.json")
_TEXTS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")
# What no checkpoint says; marks around a source are the tokenizer's there.
_OURS = {"init", "dropout", "dtype", "encoder_marks"}
_Tokenizer = tuple[tokenizers.Tokenizer | None, tuple[str, ...]] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """Architectures that share their names.

  Attributes:
    name: What people type.
    what: One line for people.
    types: Values of `model_type`, and the class that each is loaded as.
    anchor: Name of the embedding, without what stands before it.
    prefixes: What may stand before all names; the first is written.
    model: `config.json` to the model of ours.
    config: A model of ours to the fields of `config.json` that it decides.
    lines: (model, prefix) to where its leaves lie.
    unused: Leaves that are saved and not read, after the prefix.
    kind: Of our models.
    inside: A value of `model_type` whose config holds, in a field, that of a model of
      the family beside others; and the fields that it leaves out by default.
    others: Leaves of those others, by their whole names.
    tokenizer: (checkpoint, model) to what `architecture_lib.Architecture` has.
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
  kind: type = config_lib.Decoder
  inside: Mapping[str, tuple[str, Mapping[str, Any]]] = dataclasses.field(
      default_factory=dict)
  others: tuple[str, ...] = ()
  tokenizer: Callable[[architecture_lib.Raw, Any], _Tokenizer] = (
      lambda raw, model: tokenizer_beside(raw, model))


def architecture(family: Family) -> architecture_lib.Architecture:
  """A family as a map that `sources.foreign` lists."""

  def model(raw):
    path = architecture_lib.beside(raw, "config.json")
    if path is None:
      raise errors.UserError(
          f"{raw.path}: there is no config.json beside it, which describes the model."
          " Fetch it too.")
    fields = architecture_lib.read_json(path)
    if (kind := fields["model_type"]) in family.inside:
      # Whether tables are tied stands outside, beside the config of the text part; what
      # that part leaves out has its class's default.
      name, habit = family.inside[kind]
      fields = {"tie_word_embeddings": fields.get("tie_word_embeddings", True),
                **habit, **fields[name]}
    return read(family, str(path), fields, raw.specs, len(raw.specs))

  return architecture_lib.Architecture(
      name=family.name, what=family.what,
      recognizes=lambda raw: type_of(raw) in {**family.types, **family.inside},
      model=model, lines=lambda raw, model: lines(family, model, raw.specs),
      tokenizer=lambda raw, model, repair: family.tokenizer(raw, model))


def read(
    family: Family, where: str, fields: Mapping[str, Any],
    names: Collection[str], most: float = math.inf
) -> config_lib.Decoder:
  """The model of ours that a `config.json` describes.

  Args:
    family: What it is of.
    where: For people.
    fields: The `config.json`.
    names: Of the checkpoint's tensors.
    most: How many layers there may be.

  Raises:
    errors.UserError: With the field that no model of ours has.
  """
  asked = fields_lib.Fields(where, fields, names, most)
  model = family.model(asked, fields["model_type"])
  asked.finish()
  return model


def write(family: Family, model: config_lib.Decoder) -> dict[str, Any]:
  """A `config.json` for a model of ours.

  Raises:
    errors.UserError: With every field that the family has no place for.
  """
  if type(model) is not family.kind:
    raise errors.UserError(
        f"{family.name} is a {family.kind.__name__}, and the model a"
        f" {type(model).__name__}.")
  fields = family.config(model)
  fields["architectures"] = [family.types[fields["model_type"]]]
  names = {source for line in lines(family, model).lines for source in line.sources}
  # Reading back is the check: whatever the written config does not express shows as a
  # difference, so that no list of unsupported fields has to be kept.
  back = decoder_config.explicit(read(family, family.name, fields, names))
  own = decoder_config.explicit(model)
  names = {field.name for field in dataclasses.fields(own)} - _OURS
  both = {name: (getattr(own, name), getattr(back, name)) for name in sorted(names)}
  differ = [f"model.{name} is {ours!r}, and it has {theirs!r}"
            for name, (ours, theirs) in both.items() if ours != theirs]
  if differ:
    raise errors.UserError(
        f"{family.name} cannot hold this model: {'; '.join(differ)}.")
  return fields | {"dtype": "float32", "use_cache": True}


def lines(
    family: Family, model: config_lib.Decoder, names: Collection[str] = ()
) -> architecture_lib.Map:
  """Where leaves lie in a checkpoint of these names; (): in one that we write."""
  # A model saved without its head lacks what stands before the names, so the name of
  # the embedding decides.
  prefix = next((p for p in family.prefixes if p + family.anchor in names),
                family.prefixes[0])
  # Some files of tied models hold the table a second time as the output.
  again = ("lm_head.weight", "embed_out.weight") if model.tied else ()  # Tied.
  unused = (prefix.replace(".", r"\.") + pattern for pattern in family.unused)
  return architecture_lib.Map(
      lines=tuple(family.lines(decoder_config.explicit(model), prefix)),
      unused=(*again, *unused, *family.others))


def specs_before(
    how: architecture_lib.Map, specs: Mapping[str, tree.Spec],
    dtypes: Mapping[str, np.dtype]) -> dict[str, tree.Spec]:
  """Specs of the checkpoint that a map reads leaves of ours from.

  Args:
    how: Its map.
    specs: Our leaves.
    dtypes: By our names: in what they are stored; others as they are.
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
    raw: architecture_lib.Raw, model: config_lib.Decoder
) -> _Tokenizer:
  """The tokenizer in the files that most of them have."""
  found = [path for name in _TEXTS if (path := architecture_lib.beside(raw, name))]
  if not found:
    return None
  tokenizer = tokenizers.load(found[0].parent)
  if tokenizer.size > model.vocab_size:
    raise errors.UserError(
        f"{found[0]}: it has {tokenizer.size} tokens, and the model"
        f" {model.vocab_size}.")
  return tokenizer, ()


def type_of(raw: architecture_lib.Raw) -> str:
  """The `model_type` of its `config.json`; empty where there is none."""
  path = architecture_lib.beside(raw, "config.json")
  return str(architecture_lib.read_json(path).get("model_type")) if path else ""


def _before(layout: layouts.Layout, shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape of what a layout of a family makes `shape` from."""
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
