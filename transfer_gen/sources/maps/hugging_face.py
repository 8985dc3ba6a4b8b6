"""What decoders of Hugging Face Transformers have in common, in and out.

A family says how its `config.json` and a model of ours follow from each other, and
where leaves lie. Whether it can hold a model is seen by writing the config and reading
it back: a field that comes back with another value is what the family has no place for.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
import dataclasses
import math
from typing import Any

import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.data import tokenizers
from transfer_gen.models import decoder_config
from transfer_gen.sources import mapped
from transfer_gen.sources import maps
from transfer_gen.sources import raw as raw_lib
from transfer_gen.transfer import layouts

LAYER = r"layer_(\d+)"
FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt",
         "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
         "chat_template.jinja", "chat_template.json")
_TEXTS = ("tokenizer.json", "tokenizer.model", "vocab.json")
# Fields that change nothing that a model computes, or training alone.
_IDLE = frozenset((
    "_name_or_path", "activation_dropout", "architectures", "attention_dropout",
    "attn_pdrop", "bos_token_id", "cache_implementation", "classifier_dropout",
    "do_sample", "dropout", "dtype", "embd_pdrop", "eos_token_id", "finetuning_task",
    "gradient_checkpointing", "hidden_dropout", "id2label", "init_std",
    "initializer_range", "is_decoder", "label2id", "layerdrop", "max_length",
    "model_type", "n_ctx", "output_past", "pad_token_id", "prefix", "pretraining_tp",
    "reorder_and_upcast_attn", "resid_pdrop", "return_dict", "summary_activation",
    "summary_first_dropout", "summary_proj_to_labels", "summary_type",
    "summary_use_proj", "task_specific_params", "torch_dtype", "transformers_version",
    "unk_token_id", "use_cache"))
_ACTIVATIONS = {
    "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_fast": "gelu",
    "gelu": "gelu_exact", "relu": "relu", "silu": "silu", "swish": "silu"}
_GATES = {
    "silu": "swiglu", "swish": "swiglu", "gelu_pytorch_tanh": "geglu",
    "gelu_new": "geglu", "gelu": "geglu_exact"}
_NAMES = {
    "gelu": "gelu_new", "gelu_exact": "gelu", "relu": "relu", "silu": "silu",
    "swiglu": "silu", "geglu": "gelu_pytorch_tanh", "geglu_exact": "gelu"}
_ROPE = {  # Keys of each type, by our names for it.
    "default": (), "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor",
               "original_max_position_embeddings"),
    "yarn": ("factor", "beta_slow", "beta_fast", "original_max_position_embeddings",
             "attention_factor", "mscale", "mscale_all_dim", "truncate")}
_OURS = {"init", "dropout", "dtype"}  # What no checkpoint says.
_REQUIRED = object()


class Fields:
  """A `config.json`; every field is asked for, or known to be idle, or refused."""

  def __init__(self, where: str, fields: Mapping[str, Any], leaves: float = math.inf):
    """`leaves`: how many tensors the checkpoint has."""
    self._where, self._fields, self._leaves = where, fields, leaves
    self._asked = set(_IDLE)

  def get(self, name: str, default: Any = _REQUIRED) -> Any:
    """A field's value.

    Raises:
      errors.UserError: If there is neither one nor a default.
    """
    self._asked.add(name)
    if name not in self._fields and default is _REQUIRED:
      raise errors.UserError(f"{self._where}: it has no {name}.")
    return self._fields.get(name, default)

  def layers(self, name: str) -> int:
    """How many layers there are: no more than tensors, whatever a field says.

    Raises:
      errors.UserError: If there are more.
    """
    value = self.get(name)
    if type(value) is not int or not 0 < value <= self._leaves:
      raise errors.UserError(
          f"{self._where}: {name} is {value!r:.60}, and the checkpoint has"
          f" {self._leaves} tensors.")
    return value

  def choose(self, name: str, default: Any, choices: Mapping[Any, Any]) -> Any:
    """What a field's value stands for.

    Raises:
      errors.UserError: If for nothing of ours.
    """
    value = self.get(name, default)
    maps.require(self._where, {name: value}, {name: choices.keys()})
    return choices[value]

  def activation(self, name: str, default: str, gated: bool = False) -> str:
    """Ours of an activation's name."""
    return self.choose(name, default, _GATES if gated else _ACTIVATIONS)

  def check(self, **wanted: Any) -> None:
    """Refuses fields of another value; one that is missing has it."""
    self._asked.update(wanted)
    maps.require(self._where, self._fields, {
        name: values if isinstance(values, tuple) else (values,)
        for name, values in wanted.items()})

  def rope(
      self, head_dim: int, base: float = 1e4, share: float | None = None, kind: str = ""
  ) -> dict[str, Any]:
    """Fields of ours for rotary positions.

    Args:
      head_dim: K.
      base: Where `rope_parameters` says none.
      share: Of the features that turn, the same. None: all do, always.
      kind: Of layers, where kinds differ: `full_attention` or `sliding_attention`.

    Raises:
      errors.UserError: If features turn as none here.
    """
    own = self.get("rope_parameters", None) or {}
    older = self.get("rope_scaling", None) or {}
    found = dict(own or older)
    if kind and (own or kind == "sliding_attention"):  # Older ones scale one kind.
      found = dict(own.get(kind) or {})
      self._refuse(own.keys() - {"full_attention", "sliding_attention"}, "")
    scaling = found.pop("rope_type", found.pop("type", "default"))
    found.pop("type", None)
    base = found.pop("rope_theta", None) or base
    turns = found.pop("partial_rotary_factor", 1.0 if share is None else share)
    maps.require(self._where, {"rope_type": scaling}, {"rope_type": tuple(_ROPE)})
    if share is None:
      maps.require(self._where, {"partial_rotary_factor": turns},
                   {"partial_rotary_factor": (1.0, None)})
    self._refuse(found.keys() - set(_ROPE[scaling]), f" with rope_type={scaling!r}")
    return {"position": "rotary", "rotary_base": float(base),
            "rotary_dim": int(head_dim * (turns or 1.0)),
            **self._scaling(scaling, found)}

  def _refuse(self, unknown, when):
    if unknown:
      raise errors.UserError(
          f"{self._where}: rope_parameters.{min(unknown)} is not known here{when}.")

  def _scaling(self, kind, found):
    if kind == "default":
      return {}
    fields = {"rotary_scaling": kind, "rotary_factor": float(found["factor"])}
    if kind == "linear":
      return fields
    length = found.get("original_max_position_embeddings")
    fields["rotary_length"] = length or self.get("max_position_embeddings")
    if kind == "llama3":
      ramp = found["low_freq_factor"], found["high_freq_factor"]
      return fields | {"rotary_ramp": tuple(map(float, ramp))}
    maps.require(self._where, found, {"truncate": (True,)})
    ramp = found.get("beta_slow") or 1, found.get("beta_fast") or 32
    return fields | {"rotary_ramp": tuple(map(float, ramp)),
                     "rotary_magnitude": _yarn_magnitude(found)}

  def finish(self) -> None:
    """Refuses every field that nobody has asked for and that asks for something."""
    maps.refuse_unknown(self._where, self._fields, self._asked)


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
  """
  name: str
  what: str
  types: Mapping[str, str]
  anchor: str
  prefixes: tuple[str, ...]
  model: Callable[[Fields, str], config_lib.Decoder]
  config: Callable[[config_lib.Decoder], dict[str, Any]]
  lines: Callable[[config_lib.Decoder, str], list[mapped.Line]]
  unused: tuple[str, ...] = ()


def architecture(family: Family) -> maps.Architecture:
  """A family as a map that `sources.foreign` lists."""

  def model(raw):
    path = maps.beside(raw, "config.json")
    return read(family, str(path), raw_lib.read_json(path), len(raw.specs))

  return maps.Architecture(
      name=family.name, what=family.what,
      recognizes=lambda raw: _type(raw) in family.types, model=model,
      lines=lambda raw, model: lines(family, model, raw.specs), tokenizer=_tokenizer)


def read(
    family: Family, where: str, fields: Mapping[str, Any], leaves: float = math.inf
) -> config_lib.Decoder:
  """The model of ours that a `config.json` describes, beside so many tensors.

  Raises:
    errors.UserError: With the field that no model of ours has.
  """
  asked = Fields(where, fields, leaves)
  model = family.model(asked, fields["model_type"])
  asked.finish()
  return model


def write(family: Family, model: config_lib.Decoder) -> dict[str, Any]:
  """A `config.json` for a model of ours.

  Raises:
    errors.UserError: With every field that the family has no place for.
  """
  fields = family.config(model)
  fields["architectures"] = [family.types[fields["model_type"]]]
  back = decoder_config.explicit(read(family, family.name, fields))
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
) -> mapped.Map:
  """Where leaves lie in a checkpoint of these names; (): in one that we write."""
  prefix = next((p for p in family.prefixes if p + family.anchor in names),
                family.prefixes[0])
  again = ("lm_head.weight", "embed_out.weight") if model.tied else ()  # Tied.
  unused = (prefix.replace(".", r"\.") + pattern for pattern in family.unused)
  return mapped.Map(lines=tuple(family.lines(decoder_config.explicit(model), prefix)),
                    unused=(*again, *unused))


def specs_before(
    how: mapped.Map, specs: Mapping[str, tree.Spec],
    dtypes: Mapping[str, np.dtype]) -> dict[str, tree.Spec]:
  """Specs of the checkpoint that a map reads leaves of ours from.

  Args:
    how: Its map.
    specs: Our leaves.
    dtypes: By our names: in what they are stored; others as they are.
  """
  found = {}
  for name, spec in specs.items():
    index, match = tree.match([line.target for line in how.lines], name)
    line = how.lines[index]
    source, = (match.expand(template) for template in line.sources)
    found[source] = tree.Spec(
        shape=_before(line.layout, spec.shape), dtype=dtypes.get(name, spec.dtype),
        axes=(), reads=())
  return found


def linear(
    target: str, source: str, biased: bool, heads: tuple[int, ...] = (),
    mixed: tuple[int, ...] = ()) -> list[mapped.Line]:
  """Lines of a PyTorch `Linear`, whose weight is [outputs, inputs].

  Args:
    target: Ours, without /kernel.
    source: Theirs, without .weight.
    biased: Whether it has a bias.
    heads: What the outputs are, if several dimensions.
    mixed: What the inputs are, if several.
  """
  parts = (layouts.Transpose(perm=(1, 0)),)
  parts += (layouts.Unflatten(dim=1, shape=heads),) if heads else ()
  parts += (layouts.Unflatten(dim=0, shape=mixed),) if mixed else ()
  bias = layouts.Unflatten(dim=0, shape=heads) if heads else layouts.COPY
  return [mapped.Line(target=f"{target}/kernel", source=f"{source}.weight",
                      layout=layouts.Chain(parts=parts))] + [
      mapped.Line(target=f"{target}/bias", source=f"{source}.bias", layout=bias)
  ] * biased


def norm(target: str, source: str, biased: bool) -> list[mapped.Line]:
  """Lines of a norm."""
  return [mapped.Line(target=f"{target}/scale", source=f"{source}.weight")] + [
      mapped.Line(target=f"{target}/bias", source=f"{source}.bias")] * biased


def head(model: config_lib.Decoder, source: str) -> list[mapped.Line]:
  """The output's line, if it is not tied."""
  return [] if model.tied else linear("head", source, False)


def rope(model: config_lib.Decoder) -> dict[str, Any]:
  """`rope_parameters` of layers that see all."""
  head_dim = model.head_dim or model.width // model.num_heads
  fields = {"rope_type": model.rotary_scaling, "rope_theta": model.rotary_base}
  if model.rotary_scaling == "none":
    fields["rope_type"] = "default"
  else:
    fields["factor"] = model.rotary_factor
  if model.rotary_dim not in (0, head_dim):
    fields["partial_rotary_factor"] = model.rotary_dim / head_dim
  ramps = {"llama3": ("low_freq_factor", "high_freq_factor"),
           "yarn": ("beta_slow", "beta_fast")}
  if ramp := ramps.get(model.rotary_scaling):
    fields |= dict(zip(ramp, model.rotary_ramp))
    fields["original_max_position_embeddings"] = model.rotary_length
  if model.rotary_scaling == "yarn":
    fields["attention_factor"] = model.rotary_magnitude
  return fields


def activation(ours: str) -> str:
  """Their name of an activation of ours, plain or gated."""
  return _NAMES[ours]


def windows(types: Iterable[str], window: int | None) -> tuple[int, ...]:
  """Windows of layers by their `layer_types`."""
  sizes = {"full_attention": 0, "sliding_attention": window or 0}
  found = []
  for kind in types:
    maps.require("config.json", {"layer_types": kind}, {"layer_types": sizes.keys()})
    found.append(sizes[kind])
  return tuple(found) if any(found) else ()


def _type(raw: raw_lib.Raw) -> str:
  path = maps.beside(raw, "config.json")
  return str(raw_lib.read_json(path).get("model_type")) if path else ""


def _tokenizer(raw: raw_lib.Raw, model: config_lib.Decoder, repair: bool):
  del repair
  found = [path for name in _TEXTS if (path := maps.beside(raw, name))]
  if not found:
    return None
  tokenizer = tokenizers.load(found[0].parent)
  if tokenizer.size > model.vocab_size:
    raise errors.UserError(
        f"{found[0]}: it has {tokenizer.size} tokens, and the model"
        f" {model.vocab_size}.")
  return tokenizer, ()


def _yarn_magnitude(found: Mapping[str, Any]) -> float:
  """Factor on the features that turn (Peng et al., 2023, equation 22)."""
  given = found.get("attention_factor")
  if given is not None:
    return float(given)
  of = lambda m: 0.1 * m * math.log(max(found["factor"], 1)) + 1
  both = found.get("mscale"), found.get("mscale_all_dim")
  return of(both[0]) / of(both[1]) if all(both) else of(1)


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
  assert isinstance(layout, layouts.Part) and isinstance(layout.parts, int)
  dim = layout.dim
  return shape[:dim] + (shape[dim] * layout.parts,) + shape[dim + 1:]
