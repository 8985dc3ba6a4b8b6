"""Keras: Attention and AdditiveAttention of a decoder to what its encoder read.

Both stand after the decoder (Luong et al., 2015): its outputs are the query and the
encoder's outputs the values, each of them or its product with a Dense layer. Keras adds
query and key in AdditiveAttention without kernels of its own.

Axes: B batch, U units of the decoder, M features of what the encoder returns, A width
of keys.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from transfer_gen import errors
from transfer_gen.maps import architecture
from transfer_gen.maps import keras_cells
from transfer_gen.maps import keras_config
from transfer_gen.maps import layouts

_Tensor = tuple[str, int]  # A layer, and which of its outputs.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention:
  """An attention, and the Dense layers between it and what it reads, if any.

  Attributes:
    layer: The attention.
    query: The Dense layer that maps the decoder's outputs; None if they are the query.
    key: The Dense layer that maps the encoder's outputs; None if they are the keys.
  """
  layer: keras_config.Layer
  query: keras_config.Layer | None
  key: keras_config.Layer | None

  @property
  def names(self) -> set[str]:
    """Names of its layers."""
    return {layer.name for layer in (self.layer, self.query, self.key) if layer}


def find(
    raw: architecture.Raw, layers: Mapping[str, keras_config.Layer],
    through: Callable[[_Tensor], _Tensor], layer: keras_config.Layer,
    decoder: _Tensor, encoder: str,
) -> Attention:
  """Finds what an attention reads.

  Args:
    raw: The checkpoint.
    layers: All layers by name.
    through: Returns the tensor before layers that act only in training.
    layer: The attention.
    decoder: The outputs of the decoder's last recurrent layer.
    encoder: Name of the encoder's.

  Raises:
    errors.UserError: If it reads something else than the model's two sides.
  """
  where = f"{raw.path}: {layer}"
  if len(layer.inputs) not in (2, 3):
    raise errors.UserError(
        f"{where} reads {len(layer.inputs)} tensors; known here are query and value, or"
        " query, value and key, and no masks.")
  query, value = layer.inputs[:2]
  key = layer.inputs[-1] if len(layer.inputs) == 3 else value

  def before(tensor):
    """Returns the Dense layer that returns a tensor, if one does, and what it reads."""
    tensor = through(tensor)
    dense = layers[tensor[0]]
    return (dense, through(dense.inputs[0])) if dense.kind == "Dense" else (
        None, tensor)

  (query_dense, asks), (key_dense, offers) = before(query), before(key)
  value_from = through(value)
  if asks != decoder or {offers, value_from} != {(encoder, 0)}:
    raise errors.UserError(
        f"{where} has a query from layer {asks[0]}, values from {value_from[0]} and"
        f" keys from {offers[0]}. Known here is the attention of a decoder: its query"
        f" is the sequence that {decoder[0]} returns, its last recurrent layer, and"
        f" values and keys the one that {encoder} returns, that of the encoder; a Dense"
        " layer may lie before the query and before the keys.")
  # Keras attends to last outputs [B, U] as if they were one sequence of B places.
  for name in (decoder[0], encoder):
    architecture.require(
        f"{raw.path}: {layers[name]}, before {layer}",
        {"return_sequences": False} | dict(layers[name].fields),
        {"return_sequences": (True,)})
  found = Attention(layer=layer, query=query_dense, key=key_dense)
  _check(raw, found)
  return found


def fields(found: Attention) -> dict[str, Any]:
  """Returns the fields of `config.Recurrent` for an attention."""
  adds, maps = found.layer.kind == "AdditiveAttention", found.query or found.key
  if not adds:
    return {"encoder_attention": "general" if maps else "dot",
            "attention_factor": found.layer.fields.get("use_scale", False)}
  if not maps:
    return {"encoder_attention": "sum"}
  assert found.query and found.key
  biases = _biased(found)
  return {"encoder_attention": "concat",
          "attention_width": found.key.fields["units"],
          "attention_bias": ("none", "key", "both")[len(biases)]}


def lines(
    raw: architecture.Raw, found: Attention, turned: bool
) -> list[architecture.Line]:
  """Returns lines for an attention.

  Args:
    raw: The checkpoint.
    found: The attention.
    turned: Whether units of both sides are those of two directions, see
      `keras_cells.lines`.
  """
  turn = lambda *dims: [layouts.Interleave(dim=d) for d in dims] if turned else []
  named = lambda layer: keras_config.weights(raw, layer)
  adds, result = found.layer.kind == "AdditiveAttention", []
  if found.layer.fields.get("use_scale", adds):
    scale, maps = named(found.layer)["scale"], found.query or found.key
    result.append(
        keras_cells.line("attention/score/kernel", scale, [] if maps else turn(0))
        if adds else keras_cells.line("attention/factor", scale, []))
  if not adds:
    # h (W m) is (h W) m, so that the kernel before the query does the same as its
    # transpose before the keys, where ours stands.
    for layer, over in ((found.key, []), (found.query, [
        layouts.Transpose(perm=(1, 0))])):
      if layer:
        result.append(keras_cells.line(
            "attention/key/kernel", named(layer)["kernel"], [*over, *turn(0, 1)]))
    return result
  for end, layer in (("query", found.query), ("key", found.key)):
    if layer:
      result.append(keras_cells.line(
          f"attention/{end}/kernel", named(layer)["kernel"], turn(0)))
  # The sum of both products has a bias if one of them does, whichever it is.
  return result + [
      keras_cells.line(f"attention/{end}/bias", named(layer)["bias"], [])
      for end, layer in zip(("key", "query"), _biased(found))]


def _biased(found):
  """Returns the Dense layers with a bias, that of the keys first."""
  return [layer for layer in (found.key, found.query)
          if layer and layer.fields.get("use_bias", True)]


def _check(raw, found) -> None:
  """Refuses what no model here computes.

  Raises:
    errors.UserError: With the layer, its field, and why.
  """
  where, adds = f"{raw.path}: {found.layer}", found.layer.kind == "AdditiveAttention"
  if found.layer.fields.get("score_mode", "dot") != "dot":
    raise errors.UserError(
        f"{where}: score_mode is {found.layer.fields['score_mode']!r}, and only 'dot'"
        " is known here, for a score that adds query and key has a weight for each"
        " feature and not one number. Train the model with AdditiveAttention.")
  if adds and not found.layer.fields.get("use_scale", True):
    raise errors.UserError(
        f"{where}: use_scale is False, and a score that adds query and key has a weight"
        " for each feature here. Train the model with use_scale=True, its default, or"
        " build it with use_scale=True, set that weight to ones, and save it.")
  if found.query and found.key and not adds or (
      adds and bool(found.query) != bool(found.key)):
    wants = "both query and keys, or neither" if adds else "the query or the keys alone"
    raise errors.UserError(
        f"{where}: a Dense layer lies before"
        f" {' and '.join(_mapped(found))}; known here is one before {wants}.")
  for layer in (found.query, found.key):
    if layer:
      architecture.require(
          f"{raw.path}: {layer}, before {found.layer}", {
              "activation": "linear", "use_bias": True, **layer.fields},
          {"activation": ("linear",)} | ({} if adds else {"use_bias": (False,)}))


def _mapped(found):
  return [f"the {name}" for name, layer in (
      ("query", found.query), ("keys", found.key)) if layer]
