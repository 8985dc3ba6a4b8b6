"""Tests for beam search against Transformers and against an exhaustive search."""

import functools
import itertools

import jax
import numpy as np
import pytest
import torch
import transformers

from tests import random_models
from tests import transformers_models
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.generate import beam
from transfer_gen.generate import prefill
from transfer_gen.generate import sampling
from transfer_gen.generate import settings
from transfer_gen.models import registry

# So small that all 31 possible texts can be enumerated.
SIZE, LENGTH, EOS = 3, 4, 1
MODELS = {
    "decoder": config.Decoder(
        vocab_size=SIZE, num_layers=1, width=8, num_heads=2, max_length=64),
    "window": config.Decoder(
        vocab_size=SIZE, num_layers=2, width=8, num_heads=1, position="rotary",
        windows=(2,)),
    "gru": config.Recurrent(
        vocab_size=SIZE, cell="gru", embed_width=4, hidden_width=8, num_layers=1),
    "pair": config.Recurrent(
        vocab_size=SIZE, encoder=True, embed_width=4, hidden_width=8, num_layers=1,
        start_token=2),
}


MARKS = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
SIDES = dict(
    vocab_size=37, d_model=24, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=20,
    decoder_ffn_dim=20, encoder_attention_heads=2, decoder_attention_heads=2,
    max_position_embeddings=64, forced_eos_token_id=None, **MARKS)
THEIRS = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=37, n_positions=96, n_embd=24, n_layer=2, n_head=3,
        bos_token_id=None, eos_token_id=None, pad_token_id=None)),
    "t5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(
        vocab_size=37, d_model=24, d_kv=6, d_ff=20, num_layers=2, num_heads=2,
        decoder_start_token_id=0, **MARKS)),
    "bart": lambda: transformers.BartForConditionalGeneration(transformers.BartConfig(
        decoder_start_token_id=2, **SIDES)),
    "marian": lambda: transformers.MarianMTModel(transformers.MarianConfig(
        decoder_start_token_id=0, **SIDES)),
}


@functools.cache
def opened(kind):
  """Returns a model of Transformers, and our module and params of the same files."""
  torch.manual_seed(0)
  # Marian's positions are sinusoids that we compute, so noise there would be lost.
  model = transformers_models.add_noise(
      THEIRS[kind]().eval(),
      but=lambda name: kind == "marian" and "embed_positions" in name)
  source, params = transformers_models.opened(model)
  return model, registry.build(source.model), params


def search(module, params, prompts=None, encoder_inputs=None, **fields):
  """Returns what a search finds, with the fields of a `Decoding`."""
  return beam.search(
      module, params, prompts, encoder_inputs=encoder_inputs,
      decoding=config.Decoding(**fields))


def theirs(model, inputs, eos, counts=None, **fields):
  """Returns texts and scores of all beams of each row, found by Transformers."""
  width = 1 if model.config.is_encoder_decoder else inputs.shape[1]
  seen = np.arange(inputs.shape[1])[None] < (
      np.full(len(inputs), inputs.shape[1]) if counts is None else counts)[:, None]
  out = model.generate(
      torch.tensor(inputs, dtype=torch.int64), do_sample=False, pad_token_id=0,
      attention_mask=torch.tensor(seen, dtype=torch.int64), eos_token_id=eos,
      num_return_sequences=fields["num_beams"], return_dict_in_generate=True,
      output_scores=True, **fields)
  texts = out.sequences[:, width:].tolist()
  return [text[:text.index(eos)] if eos in text else text for text in texts], (
      out.sequences_scores.numpy())


@pytest.mark.parametrize("eos, penalty", [(None, 1.0), (3, 1.0), (3, 0.0), (3, 2.0),
                                          (7, -1.0)])
def test_all_beams_match_transformers(eos, penalty):
  model, module, params = opened("gpt2")
  inputs = np.random.default_rng(0).integers(0, 37, (3, 5)).astype(np.int32)

  found = search(
      module, params, inputs.tolist(), beams=4, max_tokens=24,
      end_tokens=() if eos is None else (eos,), length_penalty=penalty)

  texts, scores = theirs(model, inputs, eos, num_beams=4, max_new_tokens=24,
                         length_penalty=penalty)
  found = [one for row in found for one in row]
  assert [one.tokens for one in found] == texts
  np.testing.assert_allclose([one.score for one in found], scores, rtol=1e-5)
  # Some texts must end early, or the handling of eos would not be tested.
  assert eos is None or penalty > 1 or any(len(text) < 24 for text in texts)


@pytest.mark.parametrize("name", [
    "t5", *(pytest.param(name, marks=pytest.mark.long) for name in ("bart", "marian"))])
def test_all_beams_of_encoder_decoders_match_transformers(name):
  model, module, params = opened(name)
  inputs = np.random.default_rng(0).integers(3, 37, (3, 9)).astype(np.int32)
  counts = np.array([9, 4, 6])

  found = search(
      module, params,
      encoder_inputs=[row[:count].tolist() for row, count in zip(inputs, counts)],
      beams=4,
      max_tokens=16, end_tokens=(2,))

  texts, scores = theirs(model, inputs, 2, counts, num_beams=4, max_new_tokens=16)
  found = [one for row in found for one in row]
  assert [one.tokens for one in found] == texts
  np.testing.assert_allclose([one.score for one in found], scores, rtol=1e-5)
  assert len({tuple(text) for text in texts}) > 6


def exhaustive(module, params, prompt, source, penalty):
  """Returns every text that ends or has LENGTH tokens, the best first, in float64."""
  apply = jax.jit(module.apply)
  more = {"encoder_inputs": np.int32([source])} if source else {}
  found = []
  for text in itertools.product(range(SIZE), repeat=LENGTH):
    if EOS in text:
      text = text[:text.index(EOS) + 1]
    logits = np.float64(apply(
        {"params": tree.unflatten(params)},
        np.int32([[*prompt, *text[:-1], *[0] * (LENGTH - len(text))]]), **more)[0])
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    total = sum(logits[len(prompt) - 1 + i, token] for i, token in enumerate(text))
    found.append(
        (total / len(text) ** penalty, [token for token in text if token != EOS]))
  unique = {tuple(text): (score, text) for score, text in found}
  return sorted(unique.values(), reverse=True)


@pytest.mark.parametrize("penalty", [1.0, 0.0])
@pytest.mark.parametrize("name", [
    name if name == "pair" else pytest.param(name, marks=pytest.mark.long)
    for name in MODELS])
def test_enough_beams_rank_every_possible_text(name, penalty):
  module, params = random_models.build(MODELS[name], seed=1)
  prompts, sources = [[2], [2, 0, 0]], [[0, 1, 1], [2]]
  sources = sources if name == "pair" else None

  found = search(
      module, params, prompts, beams=SIZE ** LENGTH, max_tokens=LENGTH,
      end_tokens=(EOS,), encoder_inputs=sources, length_penalty=penalty)

  for i, row in enumerate(found):
    want = exhaustive(
        module, params, prompts[i], sources and sources[i], penalty)
    assert [one.tokens for one in row] == [text for _, text in want]
    np.testing.assert_allclose(
        [one.score for one in row], [score for score, _ in want], rtol=1e-4, atol=1e-5)
  assert len(want) == 31  # 2 ** 4 texts do not end, and 1 + 2 + 4 + 8 do.
  assert found[0] != found[1]


@pytest.mark.parametrize("name", [
    "decoder", pytest.param("pair", marks=pytest.mark.long)])
def test_one_beam_matches_greedy_generation(name):
  module, params = random_models.build(MODELS[name], seed=1)
  more = {"encoder_inputs": [[0, 1, 1], [2], [1]]} if name == "pair" else {}
  texts = {"prompts": [[2], [0, 0, 2], [1, 1]], **more}

  for eos in (None, 0, 1, 2):
    decoding = config.Decoding(
        max_tokens=9, end_tokens=() if eos is None else (eos,))
    found = beam.search(module, params, decoding=decoding, **texts)

    assert [one.tokens for [one] in found] == sampling.generate(
        module, params, decoding=decoding, **texts)


def test_beams_of_a_row_do_not_depend_on_other_rows():
  module, params = random_models.build(MODELS["pair"], seed=1)
  found = lambda sources: search(
      module, params, encoder_inputs=sources, beams=3, max_tokens=9, end_tokens=(EOS,))

  together = found([[0], [1, 1], [2, 2, 2]])

  tokens = lambda row: [one.tokens for one in row]
  for i, source in enumerate(([0], [1, 1], [2, 2, 2])):
    assert tokens(together[i]) == tokens(found([source])[0])


def test_different_prompts_and_settings_share_one_compiled_program():
  module, params = random_models.build(MODELS["gru"], seed=1)
  beam.begin.clear_cache(), beam.advance.clear_cache()

  for prompts, kwargs in (
      ([[1], [2, 0]], dict(max_tokens=9, end_tokens=(0,))),
      ([[1] * 16, [2]], dict(max_tokens=16, end_tokens=(1,), length_penalty=0.3))):
    search(module, params, prompts, beams=2, **kwargs)

  assert (beam.begin._cache_size(), beam.advance._cache_size()) == (1, 1)


def test_beams_copy_neither_keys_nor_what_the_encoder_read():
  module, params = random_models.build(config.EncoderDecoder(
      vocab_size=37, num_layers=1, width=8, num_heads=2, max_length=64), seed=1)
  batch, read, slots = 2, 13, 1 + 16 * 3  # No other axes have 13 or 49 entries.
  decoding = config.Decoding(beams=3, max_tokens=5, end_tokens=(EOS,))
  switches, limits = settings.bind(decoding, 37)

  rows = prefill.pad_rows(module, [[1]] * batch, None, [5] * batch) | {
      "encoder_inputs": np.ones((batch, read), np.int32),
      "encoder_counts": np.full(batch, read, np.int32)}
  nested = prefill.nest_params(params)
  state = beam.begin(module, 16, switches, nested, rows, limits)
  program = beam.advance.lower(
      module, 16, switches, nested, state, rows, limits, np.int32(16), np.int32(0))

  text = program.as_text()
  loop = text[text.index("stablehlo.while"):].splitlines()
  assert any(f"tensor<2x2x{read}x4x" in line for line in loop)
  assert any(f"tensor<2x2x{slots}x4x" in line for line in loop)
  copied = [line for line in loop if ".gather" in line or "broadcast_in_dim" in line]
  # The mask that says which beam sees which slot is all that is reordered.
  assert any(f"x{slots}x" in line and "i1>" in line for line in copied)
  assert not [line for line in copied
              if f"x{read}x4x" in line or f"x{slots}x4x" in line]


@pytest.mark.parametrize("kwargs, message", [
    (dict(beams=0), "beams is 0"), (dict(max_tokens=0), "max_tokens is 0"),
    (dict(length_penalty=float("nan")), "length_penalty is nan"),
    (dict(prompts=[[1], []]), "prompt 1 is empty"),
    (dict(prompts=[[1] * 60]), "prompt 0 has 60 tokens and grows by 5")])
def test_invalid_search_arguments_are_refused(kwargs, message):
  module, params = random_models.build(MODELS["decoder"], seed=1)

  with pytest.raises(errors.UserError, match=message):
    search(module, params, **{"prompts": [[1]], "beams": 2, "max_tokens": 5, **kwargs})
