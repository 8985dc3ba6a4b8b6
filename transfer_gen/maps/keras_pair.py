"""Keras: the layers of an encoder and a decoder by their role, found in their graph.

Both sides are stacks of equally many recurrent layers. Each layer of the decoder begins
with the last states of the encoder's layer of the same number; of one that reads both
ways, with those of the forward direction and of the backward one, concatenated. An
attention reads what the last layers of both sides return. Another wiring of the same
weights computes something else, and no shape shows it, so it is refused.

Axes: B batch, T position, U units.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import graphlib
from typing import Any

from transfer_gen import errors
from transfer_gen.maps import architecture
from transfer_gen.maps import keras_attention
from transfer_gen.maps import keras_config

_Layers = Mapping[str, keras_config.Layer]  # By name.
_Stack = tuple[keras_config.Layer, ...]
_Tensor = tuple[str, int]  # A layer, and which of its outputs.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
  """A model's layers by their role; an embedding is None if tokens are one-hot.

  Attributes:
    encoder: The recurrent layers that read sources, the lowest first.
    decoder: Those that begin with their states, in the same order.
    dense: The Dense layer that gives the output.
    combine: The one that makes one hidden state of the decoder's and the context, if
      any: of as many units, with tanh.
    hidden: Another one before the output, if any.
    attention: What gives the context, if there is one.
    reads: What lies behind the decoder, in the order of its concatenation: "" for the
      decoder's outputs, "_context" for the context.
    encoder_embedding: The embedding of sources.
    embedding: That of answers.
    encoder_size: Number of tokens of sources.
    size: Number of tokens of answers.
    embed_width: Number of features of both embeddings; 0 if tokens are one-hot.
  """
  encoder: _Stack
  decoder: _Stack
  dense: keras_config.Layer
  combine: keras_config.Layer | None
  hidden: keras_config.Layer | None
  attention: keras_attention.Attention | None
  reads: tuple[str, ...]
  encoder_embedding: keras_config.Layer | None
  embedding: keras_config.Layer | None
  encoder_size: int
  size: int
  embed_width: int

  @property
  def both(self) -> bool:
    """Whether the encoder reads both ways."""
    return _both(self.encoder)


def find(raw: architecture.Raw) -> Pair:
  """Finds a model's layers by their role, from the output back.

  Raises:
    errors.UserError: If the graph has another form.
  """
  layers = {layer.name: layer for layer in keras_config.layers(raw)}
  _check_cycles(raw, layers)
  dense, chain, tensor = _last(raw, layers)
  merged, concatenated = [tensor], layers[tensor[0]].kind == "Concatenate"
  if concatenated:
    _check_axis(raw, layers[tensor[0]], 2)
    merged = [_through(layers, one) for one in layers[tensor[0]].inputs]
  attending = [layers[name] for name, output in merged
               if layers[name].kind in keras_config.ATTENTIONS and not output]
  reads = tuple("_context" if layers[name] in attending else "" for name, _ in merged)
  outputs = merged[reads.index("")] if "" in reads else tensor
  top = layers[outputs[0]]
  if (top.kind not in keras_config.CELLS or top.wrapper or outputs[1]
      or sorted(reads) != ["", "_context"][:1 + concatenated]):
    raise errors.UserError(
        f"{raw.path}: {(chain or [dense])[0]} reads"
        f" {', '.join(str(layers[name]) for name, _ in merged)}. Known here are the"
        " outputs of one recurrent layer that reads forward, alone or concatenated with"
        " those of one attention.")
  decoder = _stack(raw, layers, top)
  embedding, size = _tokens(raw, layers, decoder[0])
  encoder = _stack(raw, layers, _top(raw, layers, decoder))
  encoder_embedding, encoder_size = _tokens(raw, layers, encoder[0])
  _check_sides(raw, layers, encoder, decoder)
  attention = keras_attention.find(
      raw, layers, functools.partial(_through, layers), attending[0], outputs,
      encoder[-1].name) if attending else None
  combine, hidden = _dense(raw, chain, top, attending)
  known = {layer.name for layer in (*encoder, *decoder, dense, *chain)}
  known |= attention.names if attention else set()
  # What the search from the output has not met would be lost without an error.
  left = [layer for layer in layers.values() if layer.name not in known and layer.kind
          not in (*keras_config.IDLE, "InputLayer", "Embedding", "Concatenate")]
  if left:
    raise errors.UserError(f"{raw.path}: {left[0]} is not known in a pair of an encoder"
                           " and a decoder here.")
  return Pair(encoder=encoder, decoder=decoder, dense=dense, size=size,
              combine=combine, hidden=hidden, attention=attention, reads=reads,
              encoder_size=encoder_size, embedding=embedding,
              encoder_embedding=encoder_embedding,
              embed_width=_embed_width(raw, encoder_embedding, embedding))


# The searches below follow inputs back and would not end in a circle. Keras writes
# none, but a file may come from anywhere.
def _check_cycles(raw: architecture.Raw, layers: _Layers) -> None:
  """Refuses layers that read what is made of their own outputs."""
  reads = {name: [read for read, _ in layer.inputs] for name, layer in layers.items()}
  try:
    graphlib.TopologicalSorter(reads).prepare()
  except graphlib.CycleError as error:
    raise errors.UserError(
        f"{raw.path}: the layers {', '.join(sorted({*error.args[1]}))} read each other"
        " in a circle, so that none comes first. The file is damaged.") from None


def _through(layers: _Layers, tensor: _Tensor) -> _Tensor:
  """Returns the tensor before layers that act only in training."""
  while layers[tensor[0]].kind in keras_config.IDLE:
    [tensor] = layers[tensor[0]].inputs
  return tensor


def _last(
    raw: architecture.Raw, layers: _Layers
) -> tuple[keras_config.Layer, list[keras_config.Layer], _Tensor]:
  """Returns the last Dense layer, those right before it, and what the first reads."""
  read = {name for layer in layers.values() for name, _ in layer.inputs}
  ends = [layer for layer in layers.values() if layer.name not in read]
  if len(ends) != 1 or ends[0].kind != "Dense":
    raise errors.UserError(
        f"{raw.path}: the model returns {', '.join(map(str, ends)) or 'nothing'}. Known"
        " here is one Dense layer that gives the output.")
  chain, tensor = ends, _through(layers, ends[0].inputs[0])
  while layers[tensor[0]].kind == "Dense":
    before = layers[tensor[0]]
    chain, tensor = [before, *chain], _through(layers, before.inputs[0])
  return chain[-1], chain[:-1], tensor


def _dense(raw, chain, decoder, attending):
  """Returns the Dense layers before the last one by their role, each may be None."""
  combine = None
  if attending and chain and chain[0].fields.get("activation") == "tanh" and (
      chain[0].fields["units"] == decoder.fields["units"]):
    combine, *chain = chain
  if len(chain) > 1:
    raise errors.UserError(
        f"{raw.path}: {chain[-1]} is one Dense layer too many. Known here before the"
        " output is one, and behind an attention another one, which comes first, with"
        f" tanh and as many units as {decoder.name} has.")
  return combine, chain[0] if chain else None


def _check_axis(raw, layer, features) -> None:
  """Refuses another axis than the last one, the number of which is given."""
  # Along time, states and contexts would follow each other in the same number of units.
  architecture.require(
      f"{raw.path}: {layer}", {"axis": layer.fields.get("axis", -1)},
      {"axis": (-1, features)})


def _stack(
    raw: architecture.Raw, layers: _Layers, top: keras_config.Layer) -> _Stack:
  """Returns a recurrent layer and those below it, each of which the next one reads."""
  found, below = [top], _through(layers, top.inputs[0])
  while layers[below[0]].kind in keras_config.CELLS and not below[1]:
    # Keras's default is to return the last output alone.
    architecture.require(
        f"{raw.path}: {layers[below[0]]}, below {found[0]}",
        {"return_sequences": False} | dict(layers[below[0]].fields),
        {"return_sequences": (True,)})
    found = [layers[below[0]], *found]
    below = _through(layers, found[0].inputs[0])
  return tuple(found)


def _tokens(
    raw: architecture.Raw, layers: _Layers, lowest: keras_config.Layer
) -> tuple[keras_config.Layer | None, Any]:
  """Returns the embedding between a stack and its input, if any, and its rows."""
  read = layers[_through(layers, lowest.inputs[0])[0]]
  layer, embedding = read, None
  if layer.kind == "Embedding":
    layer, embedding = layers[_through(layers, layer.inputs[0])[0]], layer
  if layer.kind != "InputLayer":
    raise errors.UserError(
        f"{raw.path}: {lowest} reads {read}. Known here is a recurrent layer that reads"
        " tokens, one-hot or through an Embedding, or the whole of what one recurrent"
        " layer returns.")
  size = keras_config.shape([layer], layer.name)[-1]
  return embedding, embedding.fields["input_dim"] if embedding else size


def _embed_width(raw, *embeddings) -> int:
  """Returns the number of features of embeddings, which must have one width."""
  widths = sorted({layer.fields["output_dim"] if layer else 0 for layer in embeddings})
  if len(widths) > 1:
    raise errors.UserError(
        f"{raw.path}: embeddings of {' and '.join(map(str, widths))} features"
        " (output_dim, and 0 for one-hot tokens); a model here has one width.")
  return widths[0]


def _top(
    raw: architecture.Raw, layers: _Layers, decoder: _Stack) -> keras_config.Layer:
  """Returns the encoder's last layer: no recurrent layer reads what it returns."""
  rest = {name: layer for name, layer in layers.items()
          if layer.kind in keras_config.CELLS and layer not in decoder}
  below = {_through(layers, layer.inputs[0])[0] for layer in rest.values()}
  tops = [layer for name, layer in rest.items() if name not in below]
  if not tops:
    raise errors.UserError(
        f"{raw.path}: no recurrent layer reads sources, beside {_listed(decoder)} of"
        " the decoder. Known here is a decoder that begins with an encoder's states.")
  if len(tops) > 1:
    raise errors.UserError(
        f"{raw.path}: beside {_listed(decoder)} of the decoder there are"
        f" {_listed(tops)}, and none of them reads what another one returns. Known here"
        " is one stack of recurrent layers that reads sources.")
  return tops[0]


def _check_sides(
    raw: architecture.Raw, layers: _Layers, encoder: _Stack, decoder: _Stack
) -> None:
  """Refuses an encoder and a decoder that do not begin as a model here does.

  Raises:
    errors.UserError: With the layer, what it differs from, and what is known.
  """
  _check_ways(raw, "encoder", encoder, {"", "Bidirectional"})
  _check_ways(raw, "decoder", decoder, {""})
  keras_config.cell_fields(raw, (*encoder, *decoder))
  begun = [layer for layer in encoder if len(layer.inputs) != 1]
  if begun:
    others = dict.fromkeys(str(layers[name]) for name, _ in begun[0].inputs[1:])
    raise errors.UserError(
        f"{raw.path}: {begun[0]}, layer {1 + encoder.index(begun[0])} of the encoder,"
        f" begins with something of {', '.join(others) or 'nothing'} or is masked by"
        " it. Known here is an encoder whose layers begin with empty states.")
  if len(encoder) != len(decoder):
    raise errors.UserError(
        f"{raw.path}: of recurrent layers, the encoder has {len(encoder)}"
        f" ({_listed(encoder)}) and the decoder {len(decoder)} ({_listed(decoder)})."
        f" {_KNOWN}, so that both have equally many. {_ELSE}")
  places = {layer.name: f", layer {number} of the {side}"
            for side, stack in (("encoder", encoder), ("decoder", decoder))
            for number, layer in enumerate(stack, start=1)}
  for read, written in zip(encoder, decoder):
    _check_start(raw, layers, places, read, written)


def _check_ways(
    raw: architecture.Raw, side: str, stack: _Stack, known: set[str]) -> None:
  """Refuses layers of a side that read in several ways, or in another one."""
  ways = {layer.wrapper for layer in stack}
  if len(ways) > 1 or not ways <= known:
    words = {"": "reads forward", "Bidirectional": "reads both ways"}
    found = ", ".join(
        f"{layer} {words.get(layer.wrapper, f'is in a {layer.wrapper}')}"
        for layer in stack)
    raise errors.UserError(
        f"{raw.path}: of the {side}, {found}. Known here are encoders all of whose"
        " layers read forward, or all both ways, and decoders that read forward.")


_KNOWN = ("Known here is a decoder each of whose layers begins with the last states of"
          " the encoder's layer of the same number")
_ELSE = ("A map of your own (--map=MAP.json) reads the weights all the same, into a"
         " model that computes something else with them.")


# The order of states matters and no shape shows it: h and c of an LSTM are alike, and
# so are the two ways.
def _check_start(
    raw: architecture.Raw, layers: _Layers, places: Mapping[str, str],
    read: keras_config.Layer, written: keras_config.Layer) -> None:
  """Refuses a layer of the decoder that begins with other states than its own."""
  starts = [_parts(raw, layers, tensor) for tensor in written.inputs[1:]]
  both, where = _both([read]), f"{raw.path}: {written}{places[written.name]},"
  if starts != _states(read):
    begins = "empty"
    if starts:
      names = dict.fromkeys(name for parts in starts for name, _ in parts)
      begins = "with what is made of " + " and of ".join(
          f"{layers[name]}{places.get(name, '')}" for name in names)
      if [*names] == [read.name]:
        begins += ", but not with its last states in their order"
    form = ("each of them that of the forward direction and that of the backward one,"
            " concatenated" if both else "as it returns them")
    raise errors.UserError(
        f"{where} begins {begins}. {_KNOWN}: here those of"
        f" {read}{places[read.name]}, {form}. {_ELSE}")
  theirs = read.fields["units"] * (1 + both)
  if theirs != written.fields["units"]:
    raise errors.UserError(
        f"{where} has {written.fields['units']} units and begins with {theirs} of"
        f" {read}{places[read.name]}.")


def _states(layer: keras_config.Layer) -> list[tuple[_Tensor, ...]]:
  """Returns the last states of a layer; of two ways, both outputs of each state."""
  count, name = 2 if keras_config.CELLS[layer.kind] == "lstm" else 1, layer.name
  # A Bidirectional layer returns the states of the forward way and then those of the
  # backward way.
  return [((name, 1 + i), (name, 1 + count + i)) if _both([layer]) else ((name, 1 + i),)
          for i in range(count)]


def _parts(
    raw: architecture.Raw, layers: _Layers, tensor: _Tensor) -> tuple[_Tensor, ...]:
  """Returns the outputs of layers of which a state is made by concatenation."""
  tensor = _through(layers, tensor)
  layer = layers[tensor[0]]
  if layer.kind == "Concatenate":
    _check_axis(raw, layer, 1)
    return tuple(_through(layers, one) for one in layer.inputs)
  # A layer that does not return a sequence returns its last state, of both ways
  # concatenated: what is called h above.
  last = layer.kind in keras_config.CELLS and not (
      tensor[1] or layer.fields.get("return_sequences", False))
  return _states(layer)[0] if last else (tensor,)


def _both(stack: Sequence[keras_config.Layer]) -> bool:
  return stack[0].wrapper == "Bidirectional"


def _listed(stack: Sequence[keras_config.Layer]) -> str:
  return ", ".join(map(str, stack))
