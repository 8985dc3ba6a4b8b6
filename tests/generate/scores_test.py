"""Tests that every setting of generation does what it does in Transformers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from tests.generate import beam_test
from transfer_gen import config
from transfer_gen.generate import beam
from transfer_gen.generate import sampling
from transfer_gen.generate import scores
from transfer_gen.generate import settings

SIZE, STEP, LENGTH = 11, 5, 9
PROMPTS = np.random.default_rng(1).integers(0, SIZE, (4, 3))
WRITTEN = np.random.default_rng(2).integers(0, SIZE, (4, STEP))
SCORES = np.random.default_rng(3).normal(size=(4, SIZE)).astype(np.float32)
_process = jax.jit(scores.process, static_argnums=(3, 5))


def processed(step=STEP, prompts=PROMPTS, **fields):
  """Returns processed scores of texts with `step` new tokens, of at most LENGTH."""
  switches, limits = settings.bind(config.Decoding(max_tokens=LENGTH, **fields), SIZE)
  # A free slot stands before the prompts, as before those that are shorter than others.
  text = np.full((4, 1 + prompts.shape[1] + LENGTH), SIZE, np.int32)
  written = np.concatenate([prompts, WRITTEN[:, :step]], axis=1)
  text[:, 1:1 + written.shape[1]] = written
  return np.asarray(_process(
      SCORES, np.int32(step), text, 1 + prompts.shape[1],
      np.full(4, LENGTH - step, np.int32), switches, limits))


def theirs(*processors, step=STEP, prompts=PROMPTS):
  """Returns the same from processors of Transformers."""
  ids = torch.tensor(np.concatenate([prompts, WRITTEN[:, :step]], axis=1))
  found = torch.tensor(SCORES)
  for processor in processors:
    found = processor(ids, found)
  return found.numpy()


@pytest.mark.parametrize("penalty", [1.7, 0.4])
def test_repeated_tokens_are_penalized_as_in_transformers(penalty):
  found = processed(repetition_penalty=penalty)

  np.testing.assert_allclose(found, theirs(
      transformers.RepetitionPenaltyLogitsProcessor(penalty)), rtol=1e-6)
  assert (found != SCORES).any(axis=1).all() and (found == SCORES).any()


@pytest.mark.parametrize("ngram", [1, 2, 3, 4])
@pytest.mark.parametrize("step", [0, 1, STEP])
def test_sequences_occur_once_as_in_transformers(ngram, step):
  # Two letters repeat so often that even sequences of four occur twice.
  prompts = np.array([[0, 1, 0], [1, 1, 1], [0, 0, 0], [1, 0, 1]])
  written = np.array([[1, 0, 1, 0, 1], [1, 1, 1, 1, 1], [0, 1, 0, 0, 0],
                      [2, 1, 0, 1, 2]])
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(globals(), "WRITTEN", written)
    found = processed(step, prompts, no_repeat_ngram=ngram)
    want = theirs(transformers.NoRepeatNGramLogitsProcessor(ngram), step=step,
                  prompts=prompts)

  np.testing.assert_array_equal(found, want)
  assert np.isinf(found).any() or (ngram, step) in ((4, 0), (3, 0), (4, 1))


def test_suppressed_tokens_are_never_written():
  np.testing.assert_array_equal(
      processed(suppress=(2, 7)),
      theirs(transformers.SuppressTokensLogitsProcessor([2, 7])))


@pytest.mark.parametrize("step", [0, 3, 4, STEP])
def test_texts_end_no_earlier_than_asked(step):
  processor = transformers.MinNewTokensLengthLogitsProcessor(3, 4, [1, 6])

  np.testing.assert_array_equal(
      processed(step, min_tokens=4, end_tokens=(1, 6)), theirs(processor, step=step))


@pytest.mark.parametrize("step", [0, 1, STEP])
def test_given_first_and_last_tokens_have_their_place(step):
  prompts = PROMPTS[:, :1]  # Theirs acts behind a single token alone.
  ends = transformers.ForcedEOSTokenLogitsProcessor(1 + step + 1, 6)

  np.testing.assert_array_equal(
      processed(step, prompts, first_token=3),
      theirs(transformers.ForcedBOSTokenLogitsProcessor(3), step=step, prompts=prompts))
  switches, limits = settings.bind(config.Decoding(last_token=6), SIZE)
  text = jnp.zeros((4, LENGTH), jnp.int32)
  np.testing.assert_array_equal(
      _process(SCORES, np.int32(step), text, 0, np.int32([1, 1, 1, 1]), switches,
               limits), theirs(ends, step=step, prompts=prompts))
  # A text that may grow by two tokens is still free.
  np.testing.assert_array_equal(
      _process(SCORES, np.int32(step), text, 0, np.int32([2, 2, 2, 2]), switches,
               limits), SCORES)


@pytest.mark.parametrize("fields", [
    dict(top_k=1), dict(top_k=3), dict(top_k=40), dict(top_p=0.05), dict(top_p=0.7),
    dict(top_k=5, top_p=0.8), dict(min_p=0.3), dict(min_p=1.0),
    dict(top_k=6, top_p=0.9, min_p=0.2)])
def test_the_tokens_that_are_drawn_from_are_those_of_transformers(fields):
  switches, limits = settings.bind(config.Decoding(temperature=0.6, **fields), SIZE)

  found = np.asarray(jax.jit(scores.truncate, static_argnums=1)(
      SCORES / np.float32(0.6), switches, limits))

  want = theirs(
      transformers.TemperatureLogitsWarper(0.6),
      transformers.TopKLogitsWarper(fields.get("top_k") or SIZE),
      transformers.TopPLogitsWarper(fields.get("top_p") or 1.0),
      transformers.MinPLogitsWarper(fields.get("min_p") or 0.0))
  np.testing.assert_allclose(found, want, rtol=1e-6)


def test_top_k_keeps_exactly_k_of_equal_logits():
  switches, limits = settings.bind(config.Decoding(temperature=1.0, top_k=2), 6)

  kept = scores.truncate(jnp.zeros((1, 6)), switches, limits)

  assert np.isfinite(kept[0]).sum() == 2


def test_settings_that_are_off_add_nothing_to_a_program():
  off = settings.bind(config.Decoding(), SIZE)

  program = _process.lower(
      SCORES, np.int32(0), np.zeros((4, LENGTH), np.int32), 0, np.zeros(4, np.int32),
      *off).as_text()

  assert "return %arg0" in program and "stablehlo." not in program


EVERYTHING = config.Decoding(
    max_tokens=14, min_tokens=6, repetition_penalty=1.3, no_repeat_ngram=2,
    suppress=(4, 21), end_tokens=(2, 5, 9), first_token=7, last_token=2)


def hf(decoding):
  """Returns settings as `generate` of Transformers takes them."""
  early = {"no": False, "yes": True, "never": "never"}
  optional = {"forced_bos_token_id": decoding.first_token,
              "forced_eos_token_id": decoding.last_token}
  return {
      "max_new_tokens": decoding.max_tokens, "min_new_tokens": decoding.min_tokens,
      "repetition_penalty": decoding.repetition_penalty,
      "no_repeat_ngram_size": decoding.no_repeat_ngram,
      "num_beams": decoding.beams, "num_return_sequences": decoding.num,
      "eos_token_id": list(decoding.end_tokens), "do_sample": False,
      "suppress_tokens": list(decoding.suppress) or None, "pad_token_id": 0,
      **({"early_stopping": early[decoding.early_stopping],
          "length_penalty": decoding.length_penalty} if decoding.beams > 1 else {}),
      **{name: token for name, token in optional.items() if token >= 0}}


@pytest.mark.parametrize("kind, change", [
    ("marian", dict()),
    ("marian", dict(beams=4, num=4)),
    ("marian", dict(beams=3, num=3, early_stopping="yes", length_penalty=2.0,
                    min_tokens=0)),
    ("gpt2", dict(first_token=-1)),
    ("gpt2", dict(first_token=-1, last_token=-1, beams=4, num=2,
                  early_stopping="never", length_penalty=0.5)),
    *(pytest.param(kind, change, marks=pytest.mark.long) for kind in ("t5", "bart")
      for change in (dict(), dict(beams=4, num=4),
                     dict(beams=2, num=2, early_stopping="never", min_tokens=0)))])
def test_all_settings_together_write_the_texts_of_transformers(kind, change):
  model, module, params = beam_test.opened(kind)
  decoding = dataclasses.replace(EVERYTHING, **change)
  inputs = np.random.default_rng(5).integers(10, 37, (5, 6))
  rows = {"prompts" if kind == "gpt2" else "encoder_inputs": inputs.tolist()}

  if decoding.beams > 1:
    found = [one.tokens for row in beam.search(
        module, params, decoding=decoding, **rows) for one in row[:decoding.num]]
  else:
    found = sampling.generate(module, params, decoding=decoding, **rows)

  out = model.generate(
      torch.tensor(inputs), attention_mask=torch.ones(inputs.shape, dtype=torch.long),
      **hf(decoding))[:, inputs.shape[1] if kind == "gpt2" else 1:].tolist()
  ends = [next((at for at, token in enumerate(row) if token in decoding.end_tokens),
               len(row)) for row in out]
  assert found == [row[:end] for row, end in zip(out, ends)]
  assert len({tuple(row) for row in found}) > 2 and min(ends) >= decoding.min_tokens
