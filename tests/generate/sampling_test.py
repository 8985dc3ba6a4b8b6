"""Tests for sampling against full forward passes and the exact distribution."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import random_models
from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.generate import prefill
from transfer_gen.generate import sampling

SIZE = 19
CONFIGS = {
    "learned": config_lib.Decoder(
        vocab_size=SIZE, num_layers=2, width=16, num_heads=2, max_length=64),
    "rotary_grouped": config_lib.Decoder(
        vocab_size=SIZE, num_layers=2, width=16, num_heads=4, num_kv_heads=2,
        position="rotary", norm="rms", activation="swiglu", tied=False),
    "lstm": config_lib.Recurrent(vocab_size=SIZE, embed_width=16, hidden_width=16),
}
PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6, 5]]


def make(name):
  return random_models.build(CONFIGS[name], seed=1)


def continue_by_hand(module, params, prompt, num_tokens):
  """Returns greedy tokens, each from a full forward pass over the text so far."""
  apply = jax.jit(module.apply)
  text = list(prompt)
  for _ in range(num_tokens):
    padded = np.zeros((1, 32), np.int32)
    padded[0, :len(text)] = text
    logits = apply({"params": tree.unflatten(params)}, padded)
    text.append(int(logits[0, len(text) - 1].argmax()))
  return text[len(prompt):]


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_tokens_match_the_argmax_of_full_forward_passes(name):
  module, params = make(name)

  texts = sampling.generate(module, params, PROMPTS, num_tokens=20)

  for prompt, text in zip(PROMPTS, texts):
    assert text == continue_by_hand(module, params, prompt, 20)
  assert len({token for text in texts for token in text}) > 3


def test_a_text_ends_before_eos_while_others_continue():
  module, params = make("learned")
  free = sampling.generate(module, params, PROMPTS, num_tokens=20)
  # A token that occurs in some of the texts, but not in all of them.
  eos = next(token for text in free for token in text
             if any(token not in other for other in free))

  texts = sampling.generate(module, params, PROMPTS, num_tokens=20, eos=eos)

  assert texts == [
      text[:text.index(eos)] if eos in text else text for text in free]
  assert min(map(len, texts)) < 20
  assert max(map(len, texts)) == 20


def test_generation_stops_when_every_text_has_ended():
  module, params = make("learned")
  first = sampling.generate(module, params, [[9]], num_tokens=1)[0][0]
  inputs, counts = prefill.pad([[9]])
  limits = {
      "num_tokens": np.int32(10), "eos": np.int32(first), "top_k": np.int32(0),
      "temperature": np.float32(0), "top_p": np.float32(1)}

  tokens = sampling._run(
      module, 16, tree.unflatten(params), inputs, counts, limits,
      jax.random.split(jax.random.key(0), 1))

  np.testing.assert_array_equal(tokens, [[first] + 15 * [0]])


def test_different_prompts_and_settings_share_one_compiled_program():
  module, params = make("rotary_grouped")
  sampling._run.clear_cache()

  for prompts, kwargs in (
      (PROMPTS, dict(num_tokens=9)),
      ([[1] * 16, [2] * 7, [3]], dict(num_tokens=16, eos=4)),
      (PROMPTS, dict(num_tokens=1, temperature=0.7)),
      (PROMPTS, dict(num_tokens=9, temperature=1.5, top_k=3, top_p=0.5,
                     key=jax.random.key(7)))):
    sampling.generate(module, params, prompts, **kwargs)
  assert sampling._run._cache_size() == 1
  # Lengths are padded to powers of two, so that a 17th token needs a new program.
  sampling.generate(module, params, [[1] * 17, [2], [3]], num_tokens=9)
  assert sampling._run._cache_size() == 2


def test_samples_of_a_prompt_do_not_depend_on_other_prompts():
  module, params = make("rotary_grouped")

  def drawn(prompts, key=0):
    return sampling.generate(
        module, params, prompts, num_tokens=12, temperature=1.0,
        key=jax.random.key(key))

  alone, among = drawn([PROMPTS[0]]), drawn([PROMPTS[2], PROMPTS[0], PROMPTS[0]])

  assert among[1] == alone[0]
  assert among[2] != among[1]  # A repeated prompt gets another sample.
  assert drawn([PROMPTS[0]], key=1) != alone


def test_flat_and_nested_params_give_the_same_text():
  module, params = make("learned")

  assert sampling.generate(module, tree.unflatten(params), PROMPTS, num_tokens=5) == (
      sampling.generate(module, params, PROMPTS, num_tokens=5))


@pytest.mark.parametrize("kwargs, message", [
    (dict(num_tokens=0), "num_tokens is 0"),
    (dict(temperature=-1.0), "temperature is -1.0"),
    (dict(temperature=float("nan")), "temperature is nan"),
    (dict(top_k=-1), "top_k is -1"),
    (dict(top_p=0.0), "top_p is 0.0"),
    (dict(prompts=[[1], []]), "prompt 1 is empty"),
    (dict(prompts=[[1, 19]]), "prompt 0 has token 19, the model knows 0 to 18"),
    (dict(prompts=[[1], [2] * 60]), "prompt 1 has 60 tokens and grows by 5; .* 64")])
def test_invalid_sampling_arguments_are_refused(kwargs, message):
  module, params = make("learned")
  kwargs = dict(prompts=[[1]], num_tokens=5) | kwargs

  with pytest.raises(errors.UserError, match=message):
    sampling.generate(module, params, **kwargs)


def test_prompt_and_answer_may_fill_all_learned_positions():
  module, params = make("learned")
  prompt = list(np.random.default_rng(0).integers(0, SIZE, 59))

  text = sampling.generate(module, params, [prompt], num_tokens=5)[0]

  whole = jax.jit(module.apply)(
      {"params": tree.unflatten(params)}, np.int32([prompt + text]))
  assert text == whole[0, 58:63].argmax(-1).tolist()


SOURCES = [[2, 8], [5], [1, 1, 7, 3]]


def make_pair(**fields):
  return random_models.build(config_lib.Recurrent(
      vocab_size=SIZE, encoder=True, encoder_vocab_size=9, embed_width=16,
      hidden_width=16, num_layers=1, **fields))


def test_greedy_answers_match_the_argmax_of_full_forward_passes():
  module, params = make_pair(start_token=4)

  texts = sampling.generate(module, params, encoder_inputs=SOURCES, num_tokens=12)
  begun = sampling.generate(
      module, params, [[4, 6]] * 3, encoder_inputs=SOURCES, num_tokens=12)

  apply = jax.jit(module.apply)
  for answers, prompt in ((texts, [4]), (begun, [4, 6])):
    for source, answer in zip(SOURCES, answers):
      logits = apply({"params": tree.unflatten(params)}, np.int32([prompt + answer]),
                     encoder_inputs=np.int32([source]))
      assert answer == logits[0, len(prompt) - 1:-1].argmax(-1).tolist()
  assert len({tuple(text) for text in texts}) == 3


def test_samples_depend_only_on_the_encoder_inputs_of_their_row():
  module, params = make_pair(start_token=4)

  def drawn(sources):
    return sampling.generate(
        module, params, encoder_inputs=sources, num_tokens=12, temperature=1.0)

  alone, among = drawn(SOURCES[:1]), drawn([SOURCES[1], SOURCES[0], SOURCES[0]])

  assert among[1] == alone[0]
  assert among[2] != among[1]


def test_encoder_inputs_of_different_lengths_share_one_program():
  module, params = make_pair()
  sampling._run.clear_cache()

  for sources in (SOURCES, [[1] * 16, [2] * 7, [3]]):
    sampling.generate(module, params, [[1]] * 3, encoder_inputs=sources, num_tokens=9)

  assert sampling._run._cache_size() == 1


@pytest.mark.parametrize("kwargs, message", [
    (dict(prompts=[[1]]), "the model has an encoder and needs encoder_inputs"),
    (dict(encoder_inputs=[[1]]), "no prompts are given, and model.start_token"),
    (dict(prompts=[[1]], encoder_inputs=[[1], [2]]),
     "there are 2 encoder_inputs and 1 prompts"),
    (dict(prompts=[[1]], encoder_inputs=[[]]), "encoder input 0 is empty"),
    (dict(prompts=[[1]], encoder_inputs=[[9]]),
     "encoder input 0 has token 9, .* 0 to 8")])
def test_invalid_encoder_inputs_are_refused(kwargs, message):
  module, params = make_pair()

  with pytest.raises(errors.UserError, match=message):
    sampling.generate(module, params, num_tokens=5, **kwargs)


def test_encoder_inputs_for_a_model_without_encoder_are_refused():
  module, params = make("learned")

  with pytest.raises(errors.UserError, match="has no encoder, and encoder_inputs are"):
    sampling.generate(module, params, [[1]], encoder_inputs=[[1]], num_tokens=5)


def chances_by_hand(logits, temperature, top_k, top_p):
  """Returns the truncated distribution that tokens are drawn from, in float64."""
  chances = np.exp(np.float64(logits) / temperature)
  order = np.argsort(-chances, kind="stable")
  keep = order[:top_k] if top_k else order
  kept = chances[keep] / chances[keep].sum()
  count = next(number for number in range(1, len(kept) + 1)
               if number == len(kept) or kept[:number].sum() >= top_p)
  result = np.zeros_like(chances)
  result[keep[:count]] = kept[:count] / kept[:count].sum()
  return result


@pytest.mark.parametrize("temperature, top_k, top_p", [
    (1.0, 0, 1.0), (0.5, 0, 1.0), (1.0, 3, 1.0), (1.0, 0, 0.6), (2.0, 4, 0.7),
    (1.0, 0, 0.01), (1.0, 50, 0.999)])
def test_sampled_frequencies_match_the_distribution(temperature, top_k, top_p):
  logits = np.random.default_rng(3).normal(size=11).astype(np.float32)
  rows = 20_000

  tokens = jax.jit(sampling.draw)(
      jnp.broadcast_to(logits, (rows, 11)),
      jax.random.split(jax.random.key(0), rows), np.float32(temperature),
      np.int32(top_k), np.float32(top_p))

  want = chances_by_hand(logits, temperature, top_k, top_p)
  got = np.bincount(np.asarray(tokens), minlength=11) / rows
  assert set(np.flatnonzero(got)) <= set(np.flatnonzero(want))
  # 0.015 is four standard errors of a frequency in 20,000 draws.
  np.testing.assert_allclose(got, want, atol=0.015)


def test_truncate_keeps_the_same_tokens_as_numpy():
  rng = np.random.default_rng(4)
  for logits in rng.normal(size=(20, 13)).astype(np.float32):
    top_k, top_p = int(rng.integers(0, 13)), float(rng.uniform(0.05, 1))

    kept = jax.jit(sampling.truncate)(
        logits[None], np.int32(top_k), np.float32(top_p))[0]

    want = chances_by_hand(logits, 1.0, top_k, top_p) > 0
    np.testing.assert_array_equal(np.isfinite(kept), want)
    np.testing.assert_array_equal(kept[want], logits[want])


def test_top_k_keeps_exactly_k_of_equal_logits():
  kept = sampling.truncate(
      jnp.zeros((1, 6)), jnp.int32(2), jnp.float32(1.0))

  assert collections.Counter(np.isfinite(kept[0]).tolist())[True] == 2
