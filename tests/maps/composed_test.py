"""Tests for `EncoderDecoderModel` of Hugging Face Transformers, against that library.

Every param is random, also norms and biases: a mistake with a param that is 0 or 1
would not show.
"""

import functools
import json
import shutil

from etils import epath
import jax
import numpy as np
import pytest
from safetensors import torch as safetensors
import torch
import transformers

from tests import transformers_models
from tests.comparing import distance
from tests.maps import round_trip
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.export import convert
from transfer_gen.export import hugging_face_folder
from transfer_gen.generate import sampling
from transfer_gen.models import registry

V, PAD = 37, 1
BERT = dict(vocab_size=V, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
            intermediate_size=28, max_position_embeddings=50, pad_token_id=PAD)
WIDE = BERT | dict(vocab_size=29, hidden_size=32, num_attention_heads=2,
                   num_hidden_layers=1, max_position_embeddings=20)
DISTIL = dict(vocab_size=V, dim=24, n_layers=1, n_heads=3, hidden_dim=28,
              max_position_embeddings=20, pad_token_id=PAD)
GPT2 = dict(vocab_size=V, n_positions=50, n_embd=24, n_layer=2, n_head=3,
            bos_token_id=None, eos_token_id=None)
CASES = {
    "bert2bert": (("Bert", BERT | dict(num_hidden_layers=3)), ("Bert", BERT)),
    "roberta2roberta": (("Roberta", BERT), ("Roberta", BERT)),
    "bert2gpt2": (("Bert", WIDE), ("GPT2", GPT2)),
    "distilbert2bert": (("DistilBert", DISTIL), ("Bert", BERT | dict(
        hidden_act="gelu_new", layer_norm_eps=1e-5, tie_word_embeddings=False))),
}
NAMES = pytest.mark.parametrize("name", CASES)
# What takes longer runs for one pair by default; the others are marked `long`.
SHORT = pytest.mark.parametrize("name", [
    name if name == "bert2gpt2" else pytest.param(name, marks=pytest.mark.long)
    for name in CASES])
RNG = np.random.default_rng(0)
COUNTS = np.array([11, 4, 7], np.int32)
VALID = np.arange(11)[None] < COUNTS[:, None]
READ = np.where(VALID, RNG.integers(2, 29, (3, 11)), PAD).astype(np.int32)
INPUTS = RNG.integers(2, V, (3, 12)).astype(np.int32)


@functools.cache
def theirs(name):
  torch.manual_seed(0)  # Initial values are drawn from the global generator.
  sides = [getattr(transformers, f"{kind}Config")(**fields)
           for kind, fields in CASES[name]]
  made = transformers.EncoderDecoderModel(
      transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
          *sides, decoder_start_token_id=2, pad_token_id=PAD))
  made.set_attn_implementation("eager")
  return transformers_models.add_noise(made.eval(), 1)


@functools.cache
def opened(name):
  """Returns a model of Transformers, its files as a source, and our params."""
  return theirs(name), *transformers_models.opened(theirs(name))


def logits_of(model, params):
  return np.asarray(jax.jit(registry.build(model).apply)(
      {"params": tree.unflatten(params)}, INPUTS, encoder_inputs=READ,
      encoder_counts=COUNTS))


def their_sources():
  return {"input_ids": torch.tensor(READ, dtype=torch.int64),
          "attention_mask": torch.tensor(VALID, dtype=torch.int64)}


def their_logits(model):
  with torch.no_grad():
    return model(**their_sources(), decoder_input_ids=torch.tensor(
        INPUTS, dtype=torch.int64)).logits.double().numpy()


@NAMES
def test_logits_match_transformers(name):
  model, source, params = opened(name)

  assert distance(logits_of(source.model, params), their_logits(model)) <= 1e-5
  assert ("bridge/kernel" in params) == (name == "bert2gpt2")


@SHORT
def test_greedy_generation_matches_transformers(name):
  model, source, params = opened(name)

  new = sampling.generate(
      registry.build(source.model), params,
      # Transformers takes the padding token for padding of the answer, too.
      decoding=config.Decoding(max_tokens=24, suppress=(PAD,)),
      encoder_inputs=[row[:count].tolist() for row, count in zip(READ, COUNTS)])

  want = model.generate(
      **their_sources(), do_sample=False, max_new_tokens=24, min_new_tokens=24,
      suppress_tokens=[PAD], decoder_start_token_id=2, eos_token_id=None)
  assert new == want[:, 1:].tolist()
  assert len({token for row in new for token in row}) > 1


@pytest.mark.parametrize("name", ["roberta2roberta", "bert2gpt2"])
def test_reading_and_writing_back_keeps_every_bit(name):
  _, source, params = opened(name)
  raw = source.view.raw
  dropped = [leaf for leaf in raw.specs if "pooler" in leaf]

  again = sources.open(raw.path, unused=[r"encoder\.pooler\..*"])

  assert len(dropped) == 2
  round_trip.assert_bits_are_kept(again, params)


@SHORT
def test_a_checkpoint_is_exported_unchanged(name, tmp_path):
  model, source, _ = opened(name)

  convert.convert(source.path, tmp_path / "back", "safetensors")
  convert.convert(source.path, tmp_path / "ours", "orbax")
  convert.convert(tmp_path / "ours", tmp_path / "out", "safetensors")

  for folder in (tmp_path / "back", tmp_path / "out"):
    again, info = transformers.EncoderDecoderModel.from_pretrained(
        folder, output_loading_info=True)
    again.set_attn_implementation("eager")
    assert all("pooler" in leaf or leaf == "decoder.cls.predictions.bias"
               for leaf in info["missing_keys"]) and not info["unexpected_keys"]
    np.testing.assert_array_equal(their_logits(again.eval()), their_logits(model))
    said = json.loads((folder / "config.json").read_text())
    assert said["decoder_start_token_id"] == 2 == source.model.start_token


def changed(name, folder, **fields):
  """Copies a checkpoint, with other fields in its config or in that of a side."""
  path = opened(name)[1].path
  shutil.copytree(path if path.is_dir() else path.parent, folder, dirs_exist_ok=True)
  made = json.loads((folder / "config.json").read_text())
  for field, value in fields.items():
    if isinstance(value, dict):
      made[field] |= value
    else:
      made[field] = value
  (folder / "config.json").write_text(json.dumps(made))


def test_sides_that_share_their_blocks_compute_what_the_same_blocks_twice_do(tmp_path):
  """As version 4 of Transformers stored them, under the names of the decoder alone."""
  _, source, params = opened("roberta2roberta")
  changed("roberta2roberta", tmp_path, tie_encoder_decoder=True)
  path = tmp_path / "model.safetensors"
  safetensors.save_file(
      {leaf: x for leaf, x in safetensors.load_file(path).items()
       if leaf.startswith("decoder.")}, path, metadata={"format": "pt"})

  shared = sources.open(tmp_path)

  assert shared.model.shared and not any(
      leaf.startswith("encoder/") for leaf in shared.specs)
  mine = dict(shared.read(list(shared.specs)))
  twice = {leaf: x if not leaf.startswith("encoder/") else (
      params["embed/embedding"] if leaf == "encoder/embed/embedding"
      else params[leaf.replace("encoder/", "decoder/", 1)])
           for leaf, x in params.items()}
  assert distance(logits_of(shared.model, mine), logits_of(source.model, twice)) <= 1e-6
  (tmp_path / "out").mkdir()
  notes = hugging_face_folder.write(epath.Path(tmp_path / "out"), shared.model, mine)
  assert any("written for both" in note for note in notes)
  again = transformers.EncoderDecoderModel.from_pretrained(tmp_path / "out").eval()
  assert distance(logits_of(shared.model, mine), their_logits(again)) <= 1e-5


def test_blocks_that_are_stored_twice_must_be_equal_to_be_shared(tmp_path):
  changed("roberta2roberta", tmp_path, tie_encoder_decoder=True)

  source = sources.open(tmp_path)

  with pytest.raises(errors.UserError, match="are one table in the model.*differ"):
    list(source.read(list(source.specs)))


@pytest.mark.parametrize("name, fields, message", [
    ("bert2bert", dict(encoder={"model_type": "t5"}), "encoder: model_type is 't5', a"),
    ("bert2bert", dict(decoder={"model_type": "distilbert"}), "decoder: model_type is"),
    ("bert2bert", dict(decoder={"is_decoder": False}), "decoder of a pair needs both"),
    ("bert2bert", dict(encoder={"is_decoder": True}), "encoder: is_decoder is True"),
    ("bert2bert", dict(decoder={"cross_attention_hidden_size": 24}), "cross_attention"),
    ("bert2bert", dict(encoder={"foo": 1}), "encoder: foo=1: no model here has such"),
    ("bert2bert", dict(encoder={"num_hidden_layers": 10**9}), "num_hidden_layers is 1"),
    ("bert2bert", dict(encoder={"intermediate_size": 10**9}), "encoder.mlp_width is"),
    ("bert2bert", dict(tie_encoder_decoder=True), "True, and the sides differ in nu"),
    ("bert2bert", dict(encoder=None), "encoder is None, no config"),
], ids=str)
def test_unsupported_fields_are_refused_by_name(name, fields, message, tmp_path):
  changed(name, tmp_path, **fields)

  with pytest.raises(errors.UserError, match=message):
    sources.open(tmp_path)


def test_two_vocabularies_are_named_one_for_each_side(tmp_path):
  changed("bert2gpt2", tmp_path)
  for name, size in (("read.json", 29), ("written.json", V)):
    (tmp_path / name).write_text(json.dumps(
        ["[UNK]", "[PAD]", "[CLS]", "[SEP]", *(f"{name}{i}" for i in range(size - 4))]))
  shutil.copy(tmp_path / "read.json", tmp_path / "vocab.json")

  source = sources.open(tmp_path)
  named = sources.open(
      tmp_path, tokenizer=f"{tmp_path}/read.json|{tmp_path}/written.json")

  assert source.tokenizer is None and "vocabularies of their own" in source.notes[0]
  assert named.tokenizer.for_encoder.size == 29 and named.tokenizer.size == V
