"""Tests for sampling against full forward passes and the exact distribution."""

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
from transfer_gen.generate import settings

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


def generate(module, params, prompts=None, encoder_inputs=None, **fields):
  """Returns new tokens, written as the fields of a `Decoding` say."""
  return sampling.generate(
      module, params, prompts, encoder_inputs=encoder_inputs,
      decoding=config_lib.Decoding(**fields))


def make(name):
  return random_models.build(CONFIGS[name], noise=0.6, seed=1)


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

  texts = generate(module, params, PROMPTS, max_tokens=20)

  for prompt, text in zip(PROMPTS, texts):
    assert text == continue_by_hand(module, params, prompt, 20)
  assert len({token for text in texts for token in text}) > 3


def test_a_text_ends_before_eos_while_others_continue():
  module, params = make("learned")
  free = generate(module, params, PROMPTS, max_tokens=20)
  # A token that occurs in some of the texts, but not in all of them.
  eos = next(token for text in free for token in text
             if any(token not in other for other in free))

  texts = generate(module, params, PROMPTS, max_tokens=20, end_tokens=(eos,))

  assert texts == [
      text[:text.index(eos)] if eos in text else text for text in free]
  assert min(map(len, texts)) < 20
  assert max(map(len, texts)) == 20


def test_generation_stops_when_every_text_has_ended():
  module, params = make("learned")
  first = generate(module, params, [[9]], max_tokens=1)[0][0]
  rows = prefill.pad_rows(module, [[9]], None, [10]) | {
      "salts": sampling.row_salts([[9]])}
  switches, limits = settings.bind(
      config_lib.Decoding(max_tokens=10, end_tokens=(first,)), SIZE)

  state = sampling.begin(module, 16, switches, tree.unflatten(params), rows, limits)
  after = sampling.advance(
      module, 16, switches, tree.unflatten(params), state, rows, limits, np.int32(10),
      np.int32(0))

  assert int(after.step) == 1
  np.testing.assert_array_equal(after.text, [[first] + 15 * [SIZE]])


def test_different_prompts_and_settings_share_compiled_programs():
  module, params = make("rotary_grouped")
  sampling.begin.clear_cache(), sampling.advance.clear_cache()
  counts = lambda: (sampling.begin._cache_size(), sampling.advance._cache_size())

  for prompts, fields in (
      (PROMPTS, dict(max_tokens=9, end_tokens=(3,))),
      ([[1] * 16, [2] * 7, [3]], dict(max_tokens=16, end_tokens=(4,)))):
    generate(module, params, prompts, **fields)
  assert counts() == (1, 1)
  for seed, values in enumerate(((0.7, 3, 0.5, 0.1), (1.5, 4, 0.9, 0.2))):
    names = ("temperature", "top_k", "top_p", "min_p")
    generate(module, params, PROMPTS, max_tokens=9, seed=seed, **dict(
        zip(names, values)))
  assert counts() == (2, 2)  # One more, because tokens are drawn.
  # Lengths are padded to powers of two, so that a 17th token needs new programs.
  generate(module, params, [[1] * 17, [2], [3]], max_tokens=9, end_tokens=(3,))
  assert counts() == (3, 3)


def test_samples_of_a_prompt_do_not_depend_on_other_prompts():
  module, params = make("rotary_grouped")

  def drawn(prompts, seed=0):
    return generate(
        module, params, prompts, max_tokens=12, temperature=1.0, seed=seed)

  alone, among = drawn([PROMPTS[0]]), drawn([PROMPTS[2], PROMPTS[0], PROMPTS[0]])

  assert among[1] == alone[0]
  assert among[2] != among[1]  # A repeated prompt gets another sample.
  assert drawn([PROMPTS[0]], seed=1) != alone


def test_flat_and_nested_params_give_the_same_text():
  module, params = make("learned")

  assert generate(module, tree.unflatten(params), PROMPTS, max_tokens=5) == (
      generate(module, params, PROMPTS, max_tokens=5))


@pytest.mark.parametrize("kwargs, message", [
    (dict(max_tokens=0), "max_tokens is 0"),
    (dict(temperature=-1.0), "temperature is -1.0"),
    (dict(temperature=float("nan")), "temperature is nan"),
    (dict(top_k=-1), "top_k is -1"),
    (dict(top_p=0.0), "top_p is 0.0"),
    (dict(prompts=[[1], []]), "prompt 1 is empty"),
    (dict(prompts=[[1, 19]]), "prompt 0 has token 19, the model knows 0 to 18"),
    (dict(prompts=[[1], [2] * 60]), "prompt 1 has 60 tokens and grows by 5; .* 64")])
def test_invalid_sampling_arguments_are_refused(kwargs, message):
  module, params = make("learned")
  kwargs = dict(prompts=[[1]], max_tokens=5) | kwargs

  with pytest.raises(errors.UserError, match=message):
    generate(module, params, **kwargs)


def test_prompt_and_answer_may_fill_all_learned_positions():
  module, params = make("learned")
  prompt = list(np.random.default_rng(0).integers(0, SIZE, 59))

  text = generate(module, params, [prompt], max_tokens=5)[0]

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

  texts = generate(module, params, encoder_inputs=SOURCES, max_tokens=12)
  begun = generate(
      module, params, [[4, 6]] * 3, encoder_inputs=SOURCES, max_tokens=12)

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
    return generate(
        module, params, encoder_inputs=sources, max_tokens=12, temperature=1.0)

  alone, among = drawn(SOURCES[:1]), drawn([SOURCES[1], SOURCES[0], SOURCES[0]])

  assert among[1] == alone[0]
  assert among[2] != among[1]


def test_encoder_inputs_of_different_lengths_share_one_program():
  module, params = make_pair()
  sampling.begin.clear_cache()

  for sources in (SOURCES, [[1] * 16, [2] * 7, [3]]):
    generate(module, params, [[1]] * 3, encoder_inputs=sources, max_tokens=9)

  assert sampling.begin._cache_size() == 1


@pytest.mark.parametrize("kwargs, message", [
    (dict(prompts=[[1]]), "the model has an encoder and needs encoder_inputs"),
    (dict(encoder_inputs=[[1]]), "no prompts are given, and model.start_token"),
    (dict(prompts=[[1]], encoder_inputs=[[1], [2]]),
     "there are 2 encoder_inputs and 1 prompts"),
    (dict(prompts=[[1]], encoder_inputs=[[9]]),
     "encoder input 0 has token 9, .* 0 to 8")])
def test_invalid_encoder_inputs_are_refused(kwargs, message):
  module, params = make_pair()

  with pytest.raises(errors.UserError, match=message):
    generate(module, params, max_tokens=5, **kwargs)


def test_encoder_inputs_for_a_model_without_encoder_are_refused():
  module, params = make("learned")

  with pytest.raises(errors.UserError, match="has no encoder, and encoder_inputs are"):
    generate(module, params, [[1]], encoder_inputs=[[1]], max_tokens=5)


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
  switches, limits = settings.bind(config_lib.Decoding(
      temperature=temperature, top_k=top_k, top_p=top_p), 11)

  tokens = jax.jit(sampling.draw, static_argnums=3)(
      jnp.broadcast_to(logits, (rows, 11)), sampling.row_salts([[1]] * rows),
      jnp.int32(0), switches, limits)

  want = chances_by_hand(logits, temperature, top_k, top_p)
  got = np.bincount(np.asarray(tokens), minlength=11) / rows
  assert set(np.flatnonzero(got)) <= set(np.flatnonzero(want))
  # 0.015 is four standard errors of a frequency in 20,000 draws.
  np.testing.assert_allclose(got, want, atol=0.015)


def test_of_equal_scores_greedy_takes_the_first_token_as_argmax_does():
  scores = np.random.default_rng(0).integers(0, 3, (50, 7)).astype(np.float32)
  switches, limits = settings.bind(config_lib.Decoding(max_tokens=1), 7)

  tokens = sampling.draw(
      jnp.asarray(scores), np.zeros((50, 2), np.uint32), np.int32(0), switches, limits)

  np.testing.assert_array_equal(tokens, scores.argmax(-1))
