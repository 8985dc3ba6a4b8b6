"""Tests for the attention layers of Keras in encoder-decoders, against Keras itself."""

import itertools

import jax
import numpy as np
import pytest

from tests.maps import keras_stack_test as stacks
from tests.maps import round_trip
from transfer_gen import errors

keras = pytest.importorskip("keras", reason="keras is not installed")
layers = keras.layers

SIZES, UNITS = (7, 9), 4
_RNG = np.random.default_rng(1)
TEXTS = [_RNG.integers(0, size, (2, length)).astype(np.int32)
         for size, length in zip(SIZES, (5, 3))]


@pytest.fixture(autouse=True)
def _allow_rank_promotion():
  # Keras relies on implicit rank promotion, which the suite makes an error.
  with jax.numpy_rank_promotion("allow"):
    yield


def dense(units=UNITS, activation=None, **fields):
  return layers.Dense(units, activation=activation, **fields)


def joined(query, context, **fields):
  return layers.Concatenate(**fields)([query, context])


def pair(behind, both=False, kind="LSTM", head=lambda: dense(SIZES[1])):
  """Returns a model whose last layer reads what `behind` makes of both sides."""
  inputs = [keras.Input((None,)) for _ in SIZES]
  read = [layers.Embedding(size, 3)(x) for size, x in zip(SIZES, inputs)]
  cell = lambda units: getattr(layers, kind)(
      units, return_sequences=True, return_state=True)
  encoder = layers.Bidirectional(cell(UNITS // 2)) if both else cell(UNITS)
  values, *states = encoder(read[0])
  if both:
    half = len(states) // 2
    states = [layers.Concatenate()([states[i], states[half + i]]) for i in range(half)]
  query = cell(UNITS)(read[1], initial_state=states)[0]
  return stacks.randomized(keras.Model(inputs, head()(behind(query, values))))


def scored(query, values):
  """Attends with a learned scale, and also returns the weights, which nothing reads."""
  query = layers.Dropout(0.3)(query)
  context, _ = layers.Attention(use_scale=True, dropout=0.1)(
      [query, values], return_attention_scores=True)
  return dense(activation="tanh")(joined(context, query))


def added(query, values):
  """Attends by products of both sides, of which one has a bias."""
  context = layers.AdditiveAttention()(
      [dense(5)(query), values, dense(5, use_bias=False)(values)])
  both = dense(activation="tanh")(joined(query, context))
  return dense(6, activation="relu")(both)


def plainly(attention, *mapped, **fields):
  """Returns what attends, with Dense layers before the inputs of these numbers."""
  def behind(query, values):
    read = [query, values, values]
    for i in mapped:
      read[i] = dense(**fields)(read[i])
    return joined(query, attention()(read))
  return behind


MODELS = {
    "dot": lambda: pair(lambda query, values: joined(
        query, layers.Attention()([query, values]))),
    "scaled": lambda: pair(
        scored, both=True, head=lambda: layers.TimeDistributed(dense(SIZES[1]))),
    "general_query": lambda: pair(
        lambda *sides: dense(3, "relu")(plainly(
            lambda: layers.Attention(use_scale=True), 0, use_bias=False)(*sides)),
        both=True),
    "general_key": lambda: pair(
        plainly(layers.Attention, 2, use_bias=False), both=True, kind="GRU"),
    "sum": lambda: pair(plainly(layers.AdditiveAttention), both=True),
    "concat": lambda: pair(added, both=True),
    "both_biases": lambda: pair(plainly(layers.AdditiveAttention, 0, 2)),
}


_SHORT = (("scaled", ".h5"), ("general_query", ".keras"), ("sum", ".keras"),
          ("concat", ".keras"))


@pytest.mark.parametrize("name, form", [
    case if case in _SHORT else pytest.param(*case, marks=pytest.mark.long)
    for case in itertools.product(MODELS, (".keras", ".h5"))])
def test_an_attention_matches_keras(name, form, tmp_path):
  model = MODELS[name]()

  source = stacks.saved(model, tmp_path, form)

  got = stacks.ours(source, TEXTS[1], encoder_inputs=TEXTS[0])
  want = np.asarray(model(TEXTS))
  assert stacks.distance_of_logits(got, want) < 1e-5
  kind = {"scaled": "dot"}.get(name, name.split("_")[0])
  assert source.model.encoder_attention == {"both": "concat"}.get(kind, kind)
  round_trip.assert_bits_are_kept(source, dict(source.read(list(source.specs))))


def masked(query, values):
  return joined(query, layers.Attention()([query, values], use_causal_mask=True))


def within(query, values):
  del values
  return joined(query, layers.Attention()([query, query]))


def residual(query, values):
  return layers.Add()([query, layers.Attention()([query, values])])


def of_heads(query, values):
  return joined(query, layers.MultiHeadAttention(2, 2)(query, values))


def along_time(query, values):
  return joined(query, layers.Attention()([query, values]), axis=1)


def alone(query, values):
  return layers.Attention()([query, values])


def dropping(query, values):
  del values
  return layers.Dropout(0.5)(query, training=True)


def two(query, values):
  once = layers.Attention()([query, values])
  return joined(once, layers.Attention()([once, values]))


@pytest.mark.parametrize("behind, message", [
    (masked, r"attention\w* \(Attention\) is called with use_causal_mask, which"),
    (dropping, r"\(Dropout\) is called with training, which changes"),
    (within, r"\(Attention\) has a query from layer (\w+), values from \1 and keys"),
    (residual, r"\(Add\): no model here has a layer of this class. Known are .*LSTM"),
    (of_heads, r"\(MultiHeadAttention\): no model here has a layer of this class"),
    (along_time, r"\(Concatenate\): axis is 1, and only -1 or 2"),
    (alone, r"reads layer attention\w* \(Attention\). Known here are the outputs of"),
    (two, "Known here are the outputs of one recurrent layer that reads forward"),
    (plainly(lambda: layers.Attention(score_mode="concat")),
     "score_mode is 'concat', and only 'dot' is known here, for a score that adds"),
    (plainly(lambda: layers.AdditiveAttention(use_scale=False)),
     "use_scale is False, and a score that adds query and key has a weight"),
    (plainly(layers.Attention, 0, 2, use_bias=False),
     "a Dense layer lies before the query and the keys; known .* the keys alone"),
    (plainly(layers.Attention, 2), "use_bias is True, and only False is known"),
    (plainly(layers.AdditiveAttention, 0), "before the query; .* or neither"),
    (plainly(layers.AdditiveAttention, 0, 2, activation="relu"),
     r"\(Dense\), before layer .* activation is 'relu', and only 'linear'"),
])
def test_what_no_model_here_computes_is_refused_with_its_reason(
    behind, message, tmp_path):
  model = pair(behind)

  with pytest.raises(errors.UserError, match=message) as error:
    stacks.saved(model, tmp_path, ".keras")

  assert "idle_field" not in str(error.value)
