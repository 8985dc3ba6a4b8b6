"""Reads and writes fields of the `config.json` of Hugging Face Transformers."""

from collections.abc import Collection, Iterable, Mapping
import math
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.maps import architecture
from transfer_gen.maps import hugging_face_generation

decoding = hugging_face_generation.read
generation_fields = hugging_face_generation.fields

# Fields that change nothing that a model computes, or training alone, or how texts
# are drawn from it; or that say who wrote the file. `auto_map` names code that came
# with a checkpoint: by default Transformers does not run it either.
_IDLE = frozenset((
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash",
    "_name_or_path", "_num_labels", "activation_dropout", "architectures",
    "attention_dropout", "attn_implementation", "attn_pdrop", "auto_map",
    "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "cache_implementation",
    "chunk_size_feed_forward", "classif_dropout", "classifier_dropout",
    "decoder_layerdrop", "diversity_penalty", "do_sample", "dropout", "dropout_rate",
    "dtype", "early_stopping", "embd_pdrop", "encoder_layerdrop",
    "encoder_no_repeat_ngram_size", "eos_token_id",
    "exponential_decay_length_penalty", "finetuning_task",
    "force_bos_token_to_be_generated", "forced_bos_token_id", "forced_eos_token_id",
    "gradient_checkpointing", "hidden_dropout", "id2label", "init_std",
    "initializer_factor", "initializer_range", "is_decoder", "is_llama_config",
    "label2id", "layerdrop", "length_penalty", "max_length", "min_length",
    "model_type", "n_ctx", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_return_sequences", "output_attentions", "output_hidden_states",
    "output_past", "output_scores", "pad_token_id", "prefix", "pretraining_tp",
    "problem_type", "remove_invalid_values", "reorder_and_upcast_attn",
    "repetition_penalty", "resid_pdrop", "return_dict", "return_dict_in_generate",
    "sep_token_id", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "summary_type", "summary_use_proj", "suppress_tokens",
    "task_specific_params", "temperature", "tf_legacy_loss", "tokenizer_class",
    "top_k", "top_p", "torch_dtype", "torchscript", "transformers.js_config",
    "transformers_version", "typical_p", "unk_token_id", "unsloth_fixed",
    "unsloth_version", "use_bfloat16", "use_cache"))
# The names of Transformers that end in _new, _tanh or _fast are the approximation by
# tanh, and plain "gelu" is exact; ours are named the other way round.
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
_REQUIRED = object()


class Fields:
  """A `config.json`: each field is asked for, known to change nothing, or refused."""

  def __init__(
      self, where: str, fields: Mapping[str, Any], names: Collection[str],
      most: float = math.inf, idle: dict[str, bool] | None = None):
    """Takes the contents of the file.

    Args:
      where: Where it was read, for messages.
      fields: Its contents.
      names: Names of the checkpoint's tensors.
      most: Largest number of layers. By default any number is accepted.
      idle: See `architecture.refuse_unknown`.
    """
    self.where = where
    self._where, self._fields, self._names, self._most = where, fields, names, most
    self._idle = {} if idle is None else idle
    self._asked = set(_IDLE)

  def get(self, name: str, default: Any = _REQUIRED) -> Any:
    """Returns a field's value.

    Raises:
      errors.UserError: If the field is missing and there is no default.
    """
    self._asked.add(name)
    if name not in self._fields and default is _REQUIRED:
      raise errors.UserError(f"{self._where}: it has no {name}.")
    return self._fields.get(name, default)

  def layers(self, name: str, default: int | None = None) -> int:
    """Returns the number of layers, which must not exceed that of tensors.

    Raises:
      errors.UserError: If it is larger, or no positive integer.
    """
    # Lines and specs are made for each layer, so that an absurd number would take hours
    # and memory before any tensor is missed.
    value = self.get(name) if default is None else self.get(name, None) or default
    if type(value) is not int or not 0 < value <= self._most:
      raise errors.UserError(
          f"{self._where}: {name} is {value!r:.60}, and the checkpoint has"
          f" {self._most} tensors.")
    return value

  def ignore(self, *names: str) -> None:
    """Takes note of fields that change nothing which the architecture computes."""
    self._asked.update(names)

  def inside(self, name: str) -> "Fields":
    """Returns the fields of a part's own config, whose tensors begin with its name.

    Raises:
      errors.UserError: If there is no such config.
    """
    found = self.get(name)
    if not isinstance(found, dict):
      raise errors.UserError(f"{self._where}: {name} is {found!r:.60}, no config.")
    return Fields(
        f"{self._where}: {name}", found, {
            n.removeprefix(f"{name}.") for n in self._names if n.startswith(f"{name}.")
        }, self._most, self._idle)

  def stored(self, name: str) -> bool:
    """Returns whether the checkpoint has an optional tensor."""
    return name in self._names

  def choose(self, name: str, default: Any, choices: Mapping[Any, Any]) -> Any:
    """Returns our value for a field's value.

    Raises:
      errors.UserError: If the field has a value that is not in `choices`.
    """
    value = self.get(name, default)
    architecture.require(self._where, {name: value}, {name: choices.keys()})
    return choices[value]

  def activation(self, name: str, default: str, gated: bool = False) -> str:
    """Returns our name of an activation."""
    return self.choose(name, default, _GATES if gated else _ACTIVATIONS)

  def check(self, **wanted: Any) -> None:
    """Refuses fields with values other than these; missing fields pass."""
    self._asked.update(wanted)
    architecture.require(self._where, self._fields, {
        name: values if isinstance(values, tuple) else (values,)
        for name, values in wanted.items()})

  def rope(
      self, head_dim: int, base: float = 1e4, share: float | None = None, kind: str = ""
  ) -> dict[str, Any]:
    """Returns the fields of our config for rotary positions.

    Args:
      head_dim: K.
      base: Base of the angles if `rope_parameters` gives none.
      share: Share of the features that turn if `rope_parameters` gives none. If None,
        all features turn, and another share is refused.
      kind: `full_attention` or `sliding_attention`, if the two kinds of layers have
        fields of their own.

    Raises:
      errors.UserError: If no model here has such positions.
    """
    # Transformers 5 writes `rope_parameters`, with the base and the share inside. Older
    # versions write `rope_scaling`, and base and share beside it.
    own = self.get("rope_parameters", None) or {}
    older = self.get("rope_scaling", None) or {}
    found = dict(own or older)
    if kind and (own or kind == "sliding_attention"):  # Older ones scale one kind.
      found = dict(own.get(kind) or {})
      self._refuse(own.keys() - {"full_attention", "sliding_attention"}, "")
    # `type` is the older name of `rope_type`; files written in between have both.
    scaling = found.pop("rope_type", found.pop("type", "default"))
    found.pop("type", None)
    base = found.pop("rope_theta", None) or base
    turns = found.pop("partial_rotary_factor", 1.0 if share is None else share)
    architecture.require(
        self._where, {"rope_type": scaling}, {"rope_type": tuple(_ROPE)})
    if share is None:
      architecture.require(self._where, {"partial_rotary_factor": turns},
                   {"partial_rotary_factor": (1.0, None)})
    self._refuse(found.keys() - set(_ROPE[scaling]), f" with rope_type={scaling!r}")
    return {"position": "rotary", "rotary_base": float(base),
            "rotary_dim": int(head_dim * (turns or 1.0)),
            **self._scaling(scaling, found)}

  def _refuse(self, unknown, when):
    inner = {f"rope_parameters.{name}": name for name in sorted(unknown)}
    for name in inner.keys() & self._idle.keys():
      self._idle[name] = True
    if left := [name for name in inner if name not in self._idle]:
      raise errors.UserError(
          f"{self._where}: {', '.join(left)}: not known here{when}."
          f" {architecture.as_idle(left)}")

  def _scaling(self, kind, found):
    if kind == "default":
      return {}
    fields = {"rotary_scaling": kind, "rotary_factor": float(found["factor"])}
    if kind == "linear":
      return fields
    # Without a length of its own, scaling starts from the length that the model has.
    length = found.get("original_max_position_embeddings")
    fields["rotary_length"] = length or self.get("max_position_embeddings")
    if kind == "llama3":
      ramp = found["low_freq_factor"], found["high_freq_factor"]
      return fields | {"rotary_ramp": tuple(map(float, ramp))}
    # `truncate` rounds the ends of the ramp to whole features, which is the only form
    # here.
    architecture.require(self._where, found, {"truncate": (True,)})
    ramp = found.get("beta_slow") or 1, found.get("beta_fast") or 32
    return fields | {"rotary_ramp": tuple(map(float, ramp)),
                     "rotary_magnitude": _yarn_magnitude(found)}

  def finish(self) -> None:
    """Refuses fields that were not asked for, unless they are empty or zero."""
    architecture.refuse_unknown(
        self._where, self._fields, self._asked, self._idle)


def rope(model: config_lib.Decoder) -> dict[str, Any]:
  """Returns the `rope_parameters` of layers without a window."""
  head_dim = model.head_size
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
  """Returns the name in Transformers of our activation, plain or gated."""
  return _NAMES[ours]


def windows(types: Iterable[str], window: int | None) -> tuple[int, ...]:
  """Returns the window of each layer by its `layer_types`; 0 means none."""
  sizes = {"full_attention": 0, "sliding_attention": window or 0}
  found = []
  for kind in types:
    architecture.require(
        "config.json", {"layer_types": kind}, {"layer_types": sizes.keys()})
    found.append(sizes[kind])
  # No window at all is (), the default of our config, and equal to it when configs are
  # compared.
  return tuple(found) if any(found) else ()


def _yarn_magnitude(found: Mapping[str, Any]) -> float:
  """Returns the factor on rotary features (Peng et al., 2023, equation 22)."""
  given = found.get("attention_factor")
  if given is not None:
    return float(given)
  # A factor below 1 shortens nothing, so it leaves the magnitude at 1.
  of = lambda m: 0.1 * m * math.log(max(found["factor"], 1)) + 1
  both = found.get("mscale"), found.get("mscale_all_dim")
  return of(both[0]) / of(both[1]) if all(both) else of(1)
