"""Tests for encoder-decoders of Hugging Face Transformers, against that library.

Every param is random, also norms, biases and the bias of the logits: a mistake with a
param that is 0 or 1 would not show.
"""

import dataclasses
import functools
import json

from etils import epath
import jax
import numpy as np
import pytest
import sentencepiece
import tokenizers as hf_tokenizers
import torch
import transformers

from tests import transformers_models
from tests.comparing import distance
from tests.maps import round_trip
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.data import tokenizers
from transfer_gen.export import convert
from transfer_gen.export import hugging_face_folder
from transfer_gen.formats import detect
from transfer_gen.generate import sampling
from transfer_gen.models import registry

V = 37
T5 = dict(vocab_size=V, d_model=24, d_kv=6, d_ff=28, num_layers=2, num_heads=3,
          relative_attention_num_buckets=8, relative_attention_max_distance=20,
          decoder_start_token_id=0)
BART = dict(vocab_size=V, d_model=24, encoder_layers=2, decoder_layers=2,
            encoder_attention_heads=3, decoder_attention_heads=3, encoder_ffn_dim=28,
            decoder_ffn_dim=28, max_position_embeddings=80, decoder_start_token_id=2)
MARIAN = BART | dict(decoder_start_token_id=36, activation_function="swish",
                     scale_embedding=True)
CLASSES = {"T5": "T5ForConditionalGeneration", "Bart": "BartForConditionalGeneration",
           "Marian": "MarianMTModel"}
CASES = {
    "t5": ("T5", T5),
    "t5_deep_encoder": ("T5", T5 | dict(
        num_layers=3, num_decoder_layers=1, d_kv=8, feed_forward_proj="gelu")),
    "t5_1_1": ("T5", T5 | dict(
        num_layers=2, num_decoder_layers=1, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False)),
    "t5_silu": ("T5", T5 | dict(
        d_kv=10, num_heads=2, num_layers=1, num_decoder_layers=2,
        feed_forward_proj="gated-silu", tie_word_embeddings=False)),
    "bart": ("Bart", BART),
    "bart_scaled": ("Bart", BART | dict(
        scale_embedding=True, encoder_layers=3, decoder_layers=1,
        activation_function="relu")),
    "bart_shallow": ("Bart", BART | dict(
        encoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2)),
    "marian": ("Marian", MARIAN),
    "marian_deep": ("Marian", MARIAN | dict(
        encoder_layers=3, decoder_layers=1, activation_function="relu",
        scale_embedding=False)),
    "marian_apart": ("Marian", MARIAN | dict(
        vocab_size=29, decoder_vocab_size=V, share_encoder_decoder_embeddings=False)),
}
# One case of each architecture runs by default; the others are marked `long`.
SHORT = ("t5_1_1", "bart_scaled", "marian")
NAMES = pytest.mark.parametrize("name", [
    name if name in SHORT else pytest.param(name, marks=pytest.mark.long)
    for name in CASES])
RNG = np.random.default_rng(0)
READ = RNG.integers(3, 29, (3, 11)).astype(np.int32)
COUNTS = np.array([11, 4, 7], np.int32)
INPUTS = RNG.integers(0, V, (3, 12)).astype(np.int32)


def theirs(kind, fields):
  """Returns a model of Transformers without params that are 0, 1 or negligible."""
  torch.manual_seed(0)  # Initial values are drawn from the global generator.
  config = getattr(transformers, f"{kind}Config")(
      **fields, **transformers_models.NO_SPECIAL_TOKENS, forced_eos_token_id=None,
      attn_implementation="eager")
  model = getattr(transformers, CLASSES[kind])(config).eval()
  if not fields.get("tie_word_embeddings", True):
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
  # Marian's positions are sinusoids that we compute, so noise there would be lost.
  return transformers_models.add_noise(
      model, 1, but=lambda name: kind == "Marian" and "embed_positions" in name,
      buffers=() if kind == "T5" else ("final_logits_bias",))


@functools.cache
def opened(name):
  """Returns a model of Transformers, its files as a source, and our params."""
  model = theirs(*CASES[name])
  return model, *transformers_models.opened(model)


def logits_of(model, params):
  module = registry.build(model)
  return np.asarray(jax.jit(module.apply)(
      {"params": tree.unflatten(params)}, INPUTS, encoder_inputs=READ,
      encoder_counts=COUNTS))


def their_sources():
  mask = np.arange(READ.shape[1])[None] < COUNTS[:, None]
  return {"input_ids": torch.tensor(READ, dtype=torch.int64),
          "attention_mask": torch.tensor(mask, dtype=torch.int64)}


def their_logits(model):
  with torch.no_grad():
    return model(**their_sources(), decoder_input_ids=torch.tensor(
        INPUTS, dtype=torch.int64)).logits.double().numpy()


@NAMES
def test_logits_match_transformers(name):
  model, source, params = opened(name)

  ours, want = logits_of(source.model, params), their_logits(model)

  assert distance(ours, want) <= 1e-5


@NAMES
def test_greedy_generation_matches_transformers(name):
  model, source, params = opened(name)

  new = sampling.generate(
      registry.build(source.model), params, decoding=config.Decoding(max_tokens=64),
      encoder_inputs=[row[:count].tolist() for row, count in zip(READ, COUNTS)])

  # Transformers sizes the cache of T5 by the encoder's layers, which fails for
  # "t5_silu": its decoder is deeper than its encoder.
  want = model.generate(
      **their_sources(), do_sample=False, max_new_tokens=64, min_new_tokens=64,
      use_cache=name != "t5_silu")
  assert new == want[:, 1:].tolist()
  assert (want[:, 0] == source.model.start_token).all()
  # A model that repeats a single token would match too easily.
  assert len({token for row in new for token in row}) > 1


@NAMES
def test_reading_and_writing_back_keeps_every_bit(name):
  _, source, params = opened(name)

  round_trip.assert_bits_are_kept(source, params)


def loaded(folder, kind):
  """Loads a folder with Transformers, which must use every tensor and miss none."""
  model, info = getattr(transformers, CLASSES[kind]).from_pretrained(
      folder, output_loading_info=True, attn_implementation="eager")
  assert not any(info.values()), info
  return model.eval()


@NAMES
def test_a_checkpoint_is_exported_unchanged(name, tmp_path):
  model, source, _ = opened(name)

  convert.convert(source.path, tmp_path / "back", "safetensors")
  convert.convert(source.path, tmp_path / "ours", "orbax")
  convert.convert(tmp_path / "ours", tmp_path / "out", "safetensors")

  for folder in (tmp_path / "back", tmp_path / "out"):
    assert detect.opener_of(folder)().specs == source.view.raw.specs
    again = loaded(folder, CASES[name][0])
    np.testing.assert_array_equal(their_logits(again), their_logits(model))
    generation = transformers.GenerationConfig.from_pretrained(folder)
    assert generation.decoder_start_token_id == source.model.start_token


@pytest.mark.parametrize("model, kind", [
    (config.EncoderDecoder(
        position="relative", norm="rms", norm_epsilon=1e-6, bias=False,
        activation="geglu", attention_scale=1.0, tied=False, num_layers=1,
        encoder_layers=2, start_token=3), "T5"),
    (config.EncoderDecoder(
        norm_order="post", embed_norm=True, position_offset=2, num_layers=2,
        start_token=1), "Bart"),
    (config.EncoderDecoder(
        norm_order="post", position="sinusoidal", sinusoid_halves=True, tied=False,
        logit_bias=True, activation="relu", num_layers=1, encoder_vocab_size=29,
        start_token=1), "Marian"),
], ids=["t5", "bart", "marian"])
def test_a_model_trained_here_loads_in_transformers(model, kind, tmp_path):
  """The params are made here; no file of Transformers is involved before writing."""
  model = dataclasses.replace(model, vocab_size=V, width=24, num_heads=2, max_length=32)
  rng = np.random.default_rng(0)
  params = {name: rng.normal(size=spec.shape, scale=0.3).astype(np.float32)
            for name, spec in registry.specs(registry.build(model)).items()}

  lines = hugging_face_folder.write(epath.Path(tmp_path), model, params)

  ours, want = logits_of(model, params), their_logits(loaded(tmp_path, kind))
  assert distance(ours, want) <= 1e-5
  assert kind.lower() in lines[0] and "No tokenizer was written" in lines[-1]


def test_a_model_that_fits_no_architecture_is_refused(tmp_path):
  model = config.EncoderDecoder(vocab_size=V, width=24, num_heads=2, norm_order="post")

  with pytest.raises(errors.UserError, match="(?s)t5 cannot.*bart cannot hold this"
                     " model: .*model.embed_norm is False, and it has True"):
    hugging_face_folder.write(epath.Path(tmp_path), model, {})
  with pytest.raises(errors.UserError, match="gpt2 is a Decoder, and the model a Enc"):
    hugging_face_folder.write(epath.Path(tmp_path), model, {}, name="gpt2")
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, fields, message", [
    ("t5", dict(feed_forward_proj="gated-relu"), "feed_forward_proj is 'gated-relu'"),
    ("t5", dict(is_encoder_decoder=False), "is_encoder_decoder is False, and only Tr"),
    ("t5", dict(num_layers=10**9), "num_layers is 1000000000, and the checkpoint has"),
    ("t5", dict(num_decoder_layers=-1), "num_decoder_layers is -1, and the checkpoin"),
    ("t5", dict(relative_attention_num_buckets=10**6),
     "relative_buckets would be 1000000, and the checkpoint has .* largest tensor"),
    ("t5", dict(d_kv=10**6), "model.head_dim would be 1000000, and the checkp"),
    ("t5", dict(relative_attention_num_buckets=7), "model.relative_buckets is 7, must"),
    ("t5", dict(relative_attention_max_distance=4), "model.relative_distance is 4, m"),
    ("t5", dict(quantization_config={"bits": 4}), "quantization_config=.*no model"),
    ("t5", dict(router_z_loss_coef=0.1), "router_z_loss_coef=0.1: no model here"),
    ("bart_scaled", dict(decoder_attention_heads=6), "decoder_attention_heads is 6, a"),
    ("bart_scaled", dict(decoder_ffn_dim=14), "decoder_ffn_dim is 14, and only 28"),
    ("bart_scaled", dict(normalize_before=True), "normalize_before is True, and only"),
    ("bart_scaled", dict(normalize_embedding=False), "normalize_embedding is False"),
    ("bart_scaled", dict(static_position_embeddings=True), "static_position_embeddin"),
    ("bart_scaled", dict(activation_function="tanh"), "activation_function is 'tanh'"),
    ("bart_scaled", dict(tie_word_embeddings=False), "tie_word_embeddings is False"),
    ("bart_scaled", dict(decoder_layers="2"), "decoder_layers is '2', and the checkp"),
    ("marian", dict(static_position_embeddings=False), "static_position_embeddings i"),
    ("marian", dict(decoder_vocab_size=99), "decoder_vocab_size is 99, and only 37"),
    ("marian", dict(share_encoder_decoder_embeddings=False),
     "(?s)does not fit the checkpoint .*embed_tokens.weight, which is not in"),
], ids=str)
def test_unsupported_fields_are_refused_by_name(
    name, fields, message, tmp_path):
  folder = opened(name)[1].path
  folder = folder if folder.is_dir() else folder.parent
  made = json.loads((folder / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps(made | fields))
  (tmp_path / "model.safetensors").write_bytes(
      (folder / "model.safetensors").read_bytes())

  with pytest.raises(errors.UserError, match=message):
    sources.open(tmp_path)


TEXTS = [f"{subject} {verb} {thing}"
         for subject in ("the cat", "a dog", "der Hund")
         for verb in ("sees", "sieht", "bites")
         for thing in ("it", "sie", "the tree", "keinen Baum")] * 3


def pieces(path, size=60, **fields):
  """Trains a SentencePiece model, and returns its processor."""
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(TEXTS), vocab_size=size,
      model_prefix=str(path.with_suffix("")), minloglevel=2, hard_vocab_limit=False,
      **fields)
  made = path.with_suffix(".model")
  if made != path:
    made.rename(path)
  return sentencepiece.SentencePieceProcessor(model_file=str(path))


def with_tokenizer(folder, name, **fields):
  kind, made = CASES[name]
  theirs(kind, made | fields).save_pretrained(folder)


def agreed_ids(tokenizer, again, text):
  """Checks that both tokenizers agree on a source text, and returns its ids."""
  ids = tokenizers.for_encoder(tokenizer).encode(text)
  # Transformers adds an eos, and for some models a bos.
  assert again(text).input_ids[-len(ids) - 1:-1] == ids
  assert again.eos_token_id == tokenizer.roles["eos"] == again(text).input_ids[-1]
  assert again.pad_token_id == tokenizer.roles["pad"]
  return ids


def test_the_t5_tokenizer_is_converted_both_ways(tmp_path):
  with_tokenizer(tmp_path / "in", "t5", vocab_size=80)
  size = pieces(tmp_path / "in" / "spiece.model", pad_id=0, eos_id=1, unk_id=2,
                bos_id=-1).get_piece_size()
  source = sources.open(tmp_path / "in")

  convert.convert(tmp_path / "in", tmp_path / "ours", "orbax")
  convert.convert(tmp_path / "ours", tmp_path / "out", "safetensors")

  for folder in ("in", "out"):
    again = transformers.T5Tokenizer.from_pretrained(tmp_path / folder, extra_ids=0)
    ids = agreed_ids(source.tokenizer, again, "the dog sieht it")
    assert source.tokenizer.decode(ids) == "the dog sieht it"
  assert source.tokenizer.size == size and source.model.start_token == 0


def test_the_bart_tokenizer_is_converted_both_ways(tmp_path):
  with_tokenizer(tmp_path / "in", "bart", vocab_size=320)
  own = hf_tokenizers.ByteLevelBPETokenizer()
  own.train_from_iterator(TEXTS, vocab_size=300, show_progress=False, special_tokens=[
      "<s>", "<pad>", "</s>", "<unk>", "<mask>"])
  own.save_model(str(tmp_path / "in"))
  source = sources.open(tmp_path / "in")

  convert.convert(tmp_path / "in", tmp_path / "ours", "orbax")
  convert.convert(tmp_path / "ours", tmp_path / "out", "safetensors")

  reference = transformers.BartTokenizer.from_pretrained(tmp_path / "in")
  again = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
  text = "the dog sieht keinen Baum"
  assert agreed_ids(source.tokenizer, reference, text) == agreed_ids(
      source.tokenizer, again, text)
  assert again(text).input_ids == reference(text).input_ids  # <s> before it as well.
  assert source.model.encoder_marks == "both"


def test_both_marian_tokenizers_are_converted_both_ways(tmp_path):
  with_tokenizer(tmp_path / "in", "marian", vocab_size=150)
  read = pieces(tmp_path / "in" / "source.spm")
  written = pieces(tmp_path / "in" / "target.spm", model_type="char")
  found = ["</s>", "<unk>", ">>fra<<"] + sorted({
      model.id_to_piece(i) for model in (read, written)
      for i in range(3, model.get_piece_size())})
  ids = {piece: i for i, piece in enumerate(found)} | {"<pad>": len(found)}
  (tmp_path / "in" / "vocab.json").write_text(json.dumps(ids))
  source = sources.open(tmp_path / "in")

  convert.convert(tmp_path / "in", tmp_path / "ours", "orbax")
  convert.convert(tmp_path / "ours", tmp_path / "out", "safetensors")

  text = "the dog sieht keinen Baum"
  for folder in ("in", "out"):
    again = transformers.MarianTokenizer.from_pretrained(tmp_path / folder)
    assert agreed_ids(source.tokenizer, again, f">>fra<<{text}")[0] == 2
    answer = again(text_target=text).input_ids
    assert source.tokenizer.encode(text) + [0] == answer
    assert source.tokenizer.encode(text) != source.tokenizer.for_encoder.encode(text)
    assert source.tokenizer.decode(answer) == again.decode(
        answer, skip_special_tokens=True) == text
  kept = tokenizers.load(tmp_path / "ours" / "tokenizer")
  assert kept.tokens == source.tokenizer.tokens and kept.tokens[:3] == (b"",) * 3


@pytest.mark.parametrize("name, files, note", [
    ("marian", ["vocab.json", "source.spm"], "target.spm is not there: no tokenizer"),
    ("marian_apart", ["vocab.json", "source.spm", "target.spm"], "two vocabularies"),
])
def test_an_unusable_marian_tokenizer_is_reported(name, files, note, tmp_path):
  with_tokenizer(tmp_path, name)
  for file in files:
    (tmp_path / file).write_text("{}")

  source = sources.open(tmp_path)

  assert source.tokenizer is None and note in source.notes[0]
