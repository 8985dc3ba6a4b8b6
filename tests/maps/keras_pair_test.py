"""Tests for stacks of several layers on both sides of a Keras pair, against Keras."""

import functools
import itertools
import json

import jax
import numpy as np
import pytest

from tests.maps import keras_stack_test as stacks
from tests.maps import round_trip
from transfer_gen import errors
from transfer_gen import sources

keras = pytest.importorskip("keras", reason="keras is not installed")
layers = keras.layers

SIZES = (7, 9)
_RNG = np.random.default_rng(1)
TEXTS = [_RNG.integers(0, size, (2, length)).astype(np.int32)
         for size, length in zip(SIZES, (5, 3))]


@pytest.fixture(autouse=True)
def _allow_rank_promotion():
  # Keras relies on implicit rank promotion, which the suite makes an error.
  with jax.numpy_rank_promotion("allow"):
    yield


def cell(name, units, kind="LSTM", both=False, **fields):
  # Orthogonal initial values, the default, would take long to compile.
  inner = getattr(layers, kind)(units // (1 + both), name=name, **{
      "recurrent_initializer": "zeros", "return_sequences": True, "return_state": True,
      **fields})
  return layers.Bidirectional(inner, name=name) if both else inner


def joined(states, turn=1):
  """Returns the states of both ways, the forward one's first unless `turn` is -1."""
  half = len(states) // 2
  return [layers.Concatenate()([states[i], states[half + i]][::turn])
          for i in range(half)]


def started(encoder):
  """Returns the states of each layer, for the decoder's layer of the same number."""
  return [states for _, states in encoder]


def plain(encoder, decoder):
  del encoder
  return decoder[-1]


def attends(*sides, by=layers.Attention, query=-1, values=-1, width=0):
  """Returns the outputs of the decoder's last layer beside the context of a layer."""
  encoder, decoder = sides
  read = [decoder[query], encoder[values][0], encoder[values][0]]
  if width:
    read = [layers.Dense(width)(read[0]), read[1], layers.Dense(width)(read[2])]
  return layers.Concatenate()([by()(read), decoder[-1]])


def pair(
    widths=(4, 6), kind="LSTM", both=False, embed=3, starts=started, behind=plain,
    read=None, written=None, join=joined, drop=0.0, dense=(), begun=(), top=None):
  """Returns a pair of two stacks; what is given says what it does otherwise.

  Args:
    widths: Of the decoder, and by default of the encoder.
    read: Widths of the encoder.
    written: Fields of each of the decoder's cells.
    begun: Numbers of the encoder's layers that begin with the states below.
    top: Fields of the encoder's last cell.
  """
  inputs = [keras.Input((None,) if embed else (None, size)) for size in SIZES]
  x, y = [layers.Embedding(size, embed)(x) if embed else x
          for size, x in zip(SIZES, inputs)]
  encoder, read = [], read or widths
  for i, units in enumerate(read):
    ways = both[i] if isinstance(both, tuple) else both
    last = (top or {}) if i + 1 == len(read) else {}
    layer = cell(f"read_{i}", units, kind, ways, **last)
    x, *states = layer(
        layers.Dropout(drop)(x) if drop else x,
        initial_state=encoder[-1][1] if i in begun else None)
    encoder.append((x, join(states) if ways else states))
  decoder = []
  for i, (units, start) in enumerate(zip(widths, starts(encoder), strict=True)):
    y = cell(f"write_{i}", units, **{"kind": kind} | (written or {}))(
        layers.Dropout(drop)(y) if drop else y, initial_state=start)[0]
    decoder.append(y)
  out = behind(encoder, decoder)
  for units, activation in dense:
    out = layers.Dense(units, activation=activation)(out)
  return keras.Model(inputs, layers.Dense(SIZES[1], name="head")(out))


def of_outputs(encoder):
  """Starts the last layer with what the encoder's returns in place of its state h."""
  return [*started(encoder[:-1]), [encoder[-1][0], *encoder[-1][1][1:]]]


_ADDED = functools.partial(attends, by=layers.AdditiveAttention)
MODELS = {
    "lstm_dot": lambda: pair(behind=attends, drop=0.2),
    "both_gru_concat": lambda: pair(
        both=True, kind="GRU", behind=functools.partial(_ADDED, width=5),
        dense=((6, "tanh"), (5, "relu"))),
    "both_lstm_outputs": lambda: pair(
        both=True, embed=0, starts=of_outputs, top={"return_sequences": False}),
    "both_lstm": lambda: pair((4, 2, 6), both=True, dense=((3, "relu"),)),
    "gru_outputs": lambda: pair(
        kind="GRU", starts=of_outputs, top={"return_sequences": False}),
    "gru": lambda: pair(kind="GRU", written={"reset_after": True}),
    "rnn_sum": lambda: pair(kind="SimpleRNN", behind=_ADDED),
    "both_lstm_dot": lambda: pair(both=True, behind=attends),
    "lstm_concat": lambda: pair((4, 4), behind=functools.partial(_ADDED, width=3)),
}
_SHORT = (("lstm_dot", ".keras"), ("both_gru_concat", ".h5"),
          ("both_lstm_outputs", ".keras"))


@pytest.mark.parametrize("name, form", [
    case if case in _SHORT else pytest.param(*case, marks=pytest.mark.long)
    for case in itertools.product(MODELS, (".keras", ".h5"))])
def test_stacks_of_an_encoder_and_a_decoder_match_keras(name, form, tmp_path):
  model = stacks.randomized(MODELS[name]())

  source = stacks.saved(model, tmp_path, form)

  read = TEXTS if source.model.embed_width else [
      np.eye(size, dtype=np.float32)[tokens] for size, tokens in zip(SIZES, TEXTS)]
  got = stacks.ours(source, TEXTS[1], encoder_inputs=TEXTS[0])
  assert stacks.distance_of_logits(got, np.asarray(model(read))) < 1e-5
  round_trip.assert_bits_are_kept(source, dict(source.read(list(source.specs))))


def as_two(model):
  """Returns a model's config with cuDNN's layers, and calls in the form of Keras 2."""
  config = json.loads(model.to_json())

  def tensors(value):
    if isinstance(value, dict):
      layer, _, output = value["config"]["keras_history"]
      return [[layer, 0, output, {}]]
    return [found for one in value or () for found in tensors(one)]

  for layer in config["config"]["layers"]:
    layer["inbound_nodes"] = [
        tensors([node["args"], node["kwargs"].get("initial_state")])
        for node in layer["inbound_nodes"]]
    layer["config"].pop("backward_layer", None)
    inner = layer["config"].get("layer", layer)
    if "units" in inner["config"] and inner["class_name"] != "Dense":
      inner["class_name"] = f"CuDNN{inner['class_name']}"
  return config


def weights_of_two(layer, gates):
  """Returns a layer's weights by name as cuDNN has them, one bias as a sum of two."""
  values = layer.get_weights()
  if not isinstance(layer, (layers.RNN, layers.Bidirectional)):
    names = ("kernel", "bias") if len(values) == 2 else ("embeddings",)
    return dict(zip(names, values))
  found, ways = {}, ("forward_a/", "backward_a/")[:len(values) // 3]
  for way, (kernel, recurrent, bias) in zip(ways, (values[:3], values[3:])):
    bias = bias if gates == 3 else np.stack([bias - 0.25, np.full_like(bias, 0.25)])
    found |= {f"{way if len(ways) > 1 else ''}{name}": value for name, value in (
        stacks.as_cudnn(kernel, recurrent, bias.ravel(), gates).items())}
  return found


@pytest.mark.long
@pytest.mark.parametrize("kind, gates", [("LSTM", 4), ("GRU", 3)])
def test_stacks_of_cudnn_in_the_form_of_keras_2_match(kind, gates, tmp_path):
  model = stacks.randomized(pair(both=True, kind=kind))

  source = sources.open(stacks.write_two(tmp_path / "a.h5", as_two(model), {
      layer.name: weights_of_two(layer, gates)
      for layer in model.layers if layer.weights}))

  got = stacks.ours(source, TEXTS[1], encoder_inputs=TEXTS[0])
  assert stacks.distance_of_logits(got, np.asarray(model(TEXTS))) < 1e-5


def upside_down(encoder):
  return started(encoder)[::-1]


def all_with_the_last(encoder):
  return [encoder[-1][1]] * len(encoder)


def first_with_the_last(encoder):
  return [encoder[-1][1], None]


def swapped(encoder):
  return [encoder[0][1], encoder[1][1][::-1]]


def captions():
  """Returns a decoder that begins with features of an image."""
  image, tokens = keras.Input((12,)), keras.Input((None,))
  out = cell("write_0", 4, "GRU")(
      layers.Embedding(SIZES[1], 3)(tokens), initial_state=layers.Dense(4)(image))[0]
  return keras.Model([image, tokens], layers.Dense(SIZES[1])(out))


def around(encoder, decoder):
  """Attends between the decoder's layers and another one behind them."""
  return cell("above", 4)(attends(encoder, decoder), initial_state=encoder[1][1])[0]


def ahead(encoder, decoder):
  """Reads both ways between the decoder's layers, and so what it is to predict."""
  ways = cell("ahead", 4, both=True)(decoder[-1])[0]
  return cell("above", 4)(ways, initial_state=encoder[1][1])[0]


def beside(encoder, decoder):
  """Attends to a second layer that reads what the encoder's first one returns."""
  return attends([(cell("other", 4)(encoder[0][0])[0], None)], decoder)


EQUAL = (4, 4)
_FORM = (r"Known here is a decoder each of whose layers begins with the last states of"
         r" the encoder's layer of the same number: here those of layer")
REFUSED = {
    "upside_down": (
        lambda: pair(EQUAL, starts=upside_down),
        r"layer write_0 \(LSTM\), layer 1 of the decoder, begins with what is made of"
        rf" layer read_1 \(LSTM\), layer 2 of the encoder\. {_FORM} read_0 \(LSTM\), "
        r"layer 1 of the encoder, as it returns them"),
    "all_with_the_last": (
        lambda: pair(EQUAL, starts=all_with_the_last),
        rf"write_0 \(LSTM\), .* layer 2 of the encoder\. {_FORM} read_0"),
    "first_with_the_last": (
        lambda: pair(EQUAL, starts=first_with_the_last),
        r"write_0 \(LSTM\), layer 1 of the decoder, begins .* layer read_1 \(LSTM\)"),
    "second_empty": (
        lambda: pair(EQUAL, starts=lambda encoder: [encoder[0][1], None],
                     behind=attends),
        rf"write_1 \(LSTM\), layer 2 of the decoder, begins empty\. {_FORM} read_1"),
    "cell_before_output": (
        lambda: pair(EQUAL, starts=swapped),
        r"write_1 .* layer 2 of the encoder, but not with its last states in their"
        r" order"),
    "backward_before_forward": (
        lambda: pair(both=True, join=functools.partial(joined, turn=-1)),
        r"not with its last states in their order\. .* layer 1 of the encoder, each of"
        r" them that of the forward direction and that of the backward one, concat"),
    "forward_alone": (
        lambda: pair((2, 2), read=EQUAL, both=True, join=lambda states: states[:2]),
        r"write_0 .* read_0 .* not with its last states in their order"),
    "deeper_encoder": (
        lambda: pair((4,), read=EQUAL, starts=lambda encoder: [encoder[1][1]]),
        r"the encoder has 2 \(layer read_0 \(LSTM\), layer read_1 \(LSTM\)\) and the"
        r" decoder 1 \(layer write_0 \(LSTM\)\)\. Known .* equally many\. A map"),
    "deeper_decoder": (
        lambda: pair(EQUAL, read=(4,), starts=lambda encoder: [encoder[0][1], None]),
        r"the encoder has 1 \(.*\) and the decoder 2 \(layer write_0 .* layer write_1"),
    "one_way_above_both": (
        lambda: pair(both=(True, False)),
        r"of the encoder, layer read_0 \(LSTM\) reads both ways, layer read_1 \(LSTM\)"
        r" reads forward\. Known here are encoders all of whose layers read forward"),
    "decoder_of_both_ways": (
        lambda: pair(EQUAL, behind=ahead),
        r"of the decoder, .* layer ahead \(LSTM\) reads both ways, layer above \(LSTM\)"
        r" reads forward\. Known .* decoders that read forward"),
    "begun_encoder": (
        lambda: pair(EQUAL, begun=(1,)),
        r"layer read_1 \(LSTM\), layer 2 of the encoder, begins with something of layer"
        r" read_0 \(LSTM\) or is masked"),
    "other_kinds": (
        lambda: pair(EQUAL, kind="GRU", written={"kind": "SimpleRNN"}),
        r"layer read_0 \(GRU\) and layer write_0 \(SimpleRNN\) differ: cell 'gru' and"),
    "no_encoder": (
        captions, r"no recurrent layer reads sources, beside layer write_0 \(GRU\) of"
        r" the decoder\. Known here is a decoder that begins with an encoder's states"),
    "two_encoders": (
        lambda: pair(EQUAL, behind=beside),
        r"beside layer write_0 .* write_1 \(LSTM\) of the decoder there are layer"
        r" read_1 \(LSTM\), layer other \(LSTM\), and none of them reads what another"),
    "values_of_the_first": (
        lambda: pair(EQUAL, behind=functools.partial(attends, values=0)),
        r"\(Attention\) has a query from layer write_1, values from read_0 and keys"
        r" from read_0\. .* write_1 returns, its last .* the one that read_1 returns"),
    "query_of_the_first": (
        lambda: pair(EQUAL, behind=functools.partial(attends, query=0)),
        r"\(Attention\) has a query from layer write_0, values from read_1"),
    "attention_between_layers": (
        lambda: pair(EQUAL, behind=around),
        r"layer above \(LSTM\) reads layer concatenate\w* \(Concatenate\)\. Known"),
    "values_without_places": (
        lambda: pair(EQUAL, behind=attends, top={"return_sequences": False}),
        r"read_1 \(LSTM\), before .* return_sequences is False, and only True is"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_wiring_is_refused_by_its_layers(name, tmp_path):
  make, message = REFUSED[name]

  with pytest.raises(errors.UserError, match=message):
    stacks.saved(make(), tmp_path, ".keras")


def test_layers_that_read_each_other_are_refused(tmp_path):
  model = pair(drop=0.2)
  model.save_weights(tmp_path / "a.weights.h5")
  config = json.loads(model.to_json())
  idle = [layer for layer in config["config"]["layers"]
          if layer["class_name"] == "Dropout"]
  for layer, other in zip(idle[:2], idle[1::-1]):
    [read] = layer["inbound_nodes"][0]["args"]
    read["config"]["keras_history"] = [other["config"]["name"], 0, 0]
  (tmp_path / "config.json").write_text(json.dumps(config))

  with pytest.raises(errors.UserError, match=(
      r"the layers dropout\w*, dropout\w* read each other in a circle")):
    sources.open(tmp_path / "a.weights.h5")
