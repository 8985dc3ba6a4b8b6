"""Tests for BERT, RoBERTa and DistilBERT of Hugging Face Transformers.

Every param is random, also norms and biases: a mistake with a param that is 0 or 1
would not show.
"""

import dataclasses
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
from transfer_gen.data import tokenizer_kinds
from transfer_gen.export import convert
from transfer_gen.export import hugging_face_folder
from transfer_gen.formats import detect
from transfer_gen.generate import sampling
from transfer_gen.models import registry
from transfer_gen.train import objectives
from transfer_gen.transfer import resolve
from transfer_gen.transfer import restore
from transfer_gen.transfer import structure

V, PAD = 37, 1
BERT = dict(vocab_size=V, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
            intermediate_size=28, max_position_embeddings=20, pad_token_id=PAD)
DISTIL = dict(vocab_size=V, dim=24, n_layers=2, n_heads=3, hidden_dim=28,
              max_position_embeddings=20, pad_token_id=PAD)
CASES = {
    "bert": ("Bert", "ForMaskedLM", BERT | dict(hidden_act="gelu_new")),
    "bert_untied": ("Bert", "ForMaskedLM", BERT | dict(
        tie_word_embeddings=False, type_vocab_size=3, layer_norm_eps=1e-5)),
    "bert_two_heads": ("Bert", "ForPreTraining", BERT),
    "bert_headless": ("Bert", "Model", BERT),
    "roberta": ("Roberta", "ForMaskedLM", BERT | dict(type_vocab_size=1)),
    "roberta_headless": ("Roberta", "Model", BERT | dict(hidden_act="relu")),
    "distilbert": ("DistilBert", "ForMaskedLM", DISTIL),
    "distilbert_sines": ("DistilBert", "ForMaskedLM", DISTIL | dict(
        sinusoidal_pos_embds=True, activation="relu", tie_word_embeddings=False)),
}
NAMES = pytest.mark.parametrize("name", CASES)
# Exports take longer, and run for some of them by default.
SHORT = pytest.mark.parametrize("name", [
    name if name in ("bert_untied", "bert_headless", "roberta", "distilbert")
    else pytest.param(name, marks=pytest.mark.long) for name in CASES])
# Leaves that no output over tokens needs are kept from folder to folder alone.
LOST = ("pooler.dense", "seq_relationship")
WHOLE = [name for name, case in CASES.items()
         if case[1] == "ForMaskedLM" and name != "bert_untied"]
RNG = np.random.default_rng(0)
INPUTS = RNG.integers(2, V, (3, 9)).astype(np.int32)
COUNTS = np.array([9, 4, 6], np.int32)
VALID = np.arange(9)[None] < COUNTS[:, None]
# RoBERTa counts positions by the padding token, so padding must be this one.
INPUTS = np.where(VALID, INPUTS, PAD)


@functools.cache
def theirs(name):
  kind, head, fields = CASES[name]
  torch.manual_seed(0)  # Initial values are drawn from the global generator.
  made = getattr(transformers, f"{kind}{head}")(
      getattr(transformers, f"{kind}Config")(**fields, attn_implementation="eager"))
  return transformers_models.add_noise(made.eval(), 1)


@functools.cache
def opened(name):
  """Returns a model of Transformers, its files as a source, and our params."""
  return theirs(name), *transformers_models.opened(theirs(name))


def ours(model, params, inputs=INPUTS, **rows):
  return np.asarray(jax.jit(registry.build(model).apply)(
      {"params": tree.unflatten(params)}, inputs, **(rows or {"counts": COUNTS})))


def their_outputs(model):
  with torch.no_grad():
    found = model(torch.tensor(INPUTS, dtype=torch.int64),
                  attention_mask=torch.tensor(VALID, dtype=torch.int64))
  return next(found[name] for name in (
      "logits", "prediction_logits", "last_hidden_state") if name in found
              ).double().numpy()


@NAMES
def test_outputs_match_transformers_with_padding(name):
  model, source, params = opened(name)

  found, want = ours(source.model, params), their_outputs(model)

  assert found.shape == want.shape
  assert distance(found[VALID], want[VALID]) <= 1e-5
  assert source.model.head == (found.shape[-1] == V)


def test_a_position_sees_those_behind_it_and_no_padding():
  _, source, params = opened("bert")
  later, padded = INPUTS.copy(), INPUTS.copy()
  later[0, -1] += 1
  padded[1, COUNTS[1]:] += 1

  before, after, other = (
      ours(source.model, params, x)[VALID] for x in (INPUTS, later, padded))

  assert (before != after)[:9].any(-1).all() and (before == other).all()


def test_documents_of_one_row_do_not_see_each_other():
  _, source, params = opened("bert")
  positions = np.array([[0, 1, 2, 3, 0, 1, 2, 3, 4]], np.int32)

  packed = ours(source.model, params, INPUTS[:1], positions=positions)

  for part in (slice(0, 4), slice(4, 9)):
    alone = ours(source.model, params, INPUTS[:1, part], positions=positions[:, part])
    assert distance(packed[:, part], alone) <= 1e-6


def test_the_loss_of_masked_tokens_is_that_of_transformers():
  model, source, params = opened("roberta")
  labels = np.where(VALID & (np.arange(9) % 3 == 1), (INPUTS + 5) % V, -100)
  with torch.no_grad():
    want = model(
        torch.tensor(INPUTS, dtype=torch.int64),
        attention_mask=torch.tensor(VALID, dtype=torch.int64),
        labels=torch.tensor(labels, dtype=torch.int64)).loss.item()

  nll = jax.jit(objectives.next_token(registry.build(source.model), False))(
      params, {"inputs": INPUTS, "targets": np.maximum(labels, 0), "counts": COUNTS},
      jax.random.key(0))

  assert np.asarray(nll)[labels >= 0].mean() == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("name", WHOLE)
def test_reading_and_writing_back_keeps_every_bit(name):
  _, source, params = opened(name)

  round_trip.assert_bits_are_kept(source, params)


@SHORT
def test_a_checkpoint_is_exported_unchanged(name, tmp_path):
  kind, head, _ = CASES[name]
  model, source, _ = opened(name)

  convert.convert(source.path, tmp_path / "back", "safetensors")
  told = " ".join(convert.convert(source.path, tmp_path / "ours", "orbax"))
  convert.convert(tmp_path / "ours", tmp_path / "out", "safetensors")

  for folder in (tmp_path / "back", tmp_path / "out"):
    kept = detect.opener_of(folder)().specs
    lost = {leaf for leaf in source.view.raw.specs if leaf not in kept}
    # An untied output has a bias of its own; Transformers stores an unused one as well.
    unused = ("cls.predictions.bias",) if name == "bert_untied" else ()
    assert all(any(part in leaf for part in (*LOST, *unused)) for leaf in lost)
    assert bool(lost) == (name not in WHOLE and folder.name == "out")
    assert all(leaf in told for leaf in lost) and bool(
        "belong to outputs that no model here has" in told) == (name not in WHOLE)
    loader = getattr(transformers, f"{kind}{head}")
    again, info = loader.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager")
    assert set(info["missing_keys"]) == lost and not info["unexpected_keys"]
    np.testing.assert_array_equal(their_outputs(again.eval()), their_outputs(model))
    named = json.loads((folder / "config.json").read_text())["architectures"]
    assert named == [f"{kind}{head}".replace("PreTraining", "MaskedLM")] or (
        folder.name == "back")


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_older_names_of_norms_are_read(name, tmp_path):
  _, source, params = opened(name)
  shutil.copytree(source.path.parent if source.path.is_file() else source.path,
                  tmp_path, dirs_exist_ok=True)
  path, older = tmp_path / "model.safetensors", {"weight": "gamma", "bias": "beta"}
  def old(leaf):
    stem, _, end = leaf.rpartition(".")
    return f"{stem}.{older[end]}" if "norm" in stem.lower() else leaf
  tensors = {old(leaf): x for leaf, x in safetensors.load_file(path).items()}
  assert sum("gamma" in leaf for leaf in tensors) == 6
  safetensors.save_file(tensors, path, metadata={"format": "pt"})

  again = sources.open(tmp_path)

  for leaf, array in again.read(list(again.specs)):
    np.testing.assert_array_equal(array, params[leaf])


def test_a_model_trained_here_loads_in_transformers(tmp_path):
  model = config.Encoder(
      vocab_size=V, width=24, num_heads=2, num_layers=1, max_length=20,
      norm_order="post", embed_norm=True, token_types=2, transform=True,
      logit_bias=True, activation="silu")
  rng = np.random.default_rng(0)
  params = {name: rng.normal(size=spec.shape, scale=0.3).astype(np.float32)
            for name, spec in registry.specs(registry.build(model)).items()}

  lines = hugging_face_folder.write(epath.Path(tmp_path), model, params)

  made = transformers.BertForMaskedLM.from_pretrained(
      tmp_path, attn_implementation="eager").eval()
  assert distance(ours(model, params)[VALID], their_outputs(made)[VALID]) <= 1e-5
  assert "bert" in lines[0]


def test_an_encoder_that_no_architecture_holds_is_refused(tmp_path):
  with pytest.raises(errors.UserError, match=(
      "(?s)model.norm_order is 'pre', and it has 'post'.*distilbert cannot")):
    hugging_face_folder.write(
        epath.Path(tmp_path), config.Encoder(vocab_size=V, token_types=2), {})
  assert not list(tmp_path.iterdir())


def test_an_encoder_does_not_write_texts():
  _, source, params = opened("bert")

  with pytest.raises(errors.UserError, match="Encoder.*recipe:warm_start"):
    sampling.generate(registry.build(source.model), params, [[3, 4]],
                      decoding=config.Decoding(max_tokens=4))


def test_a_wider_encoder_computes_the_same():
  _, source, params = opened("bert")
  new, plan = structure.grow(
      source.model, width=48, num_heads=6, mlp_width=70)
  module = registry.build(new)
  rows = resolve.resolve(
      plan, {"": source.specs}, registry.specs(module), constants={
          "": source.constants, resolve.TARGET: registry.constants(new)})

  grown = restore.restore(
      rows, {"": source}, registry.fresh(module, jax.random.key(0)))

  found, before = ours(new, grown), ours(source.model, params)
  assert distance(found[VALID], before[VALID]) <= 1e-5
  assert grown["transform/dense/kernel"].shape == (48, 48)


def test_the_tokenizer_is_converted_with_its_marks_and_its_mask(tmp_path):
  (tmp_path / "in").mkdir()
  changed("bert", tmp_path / "in", dict(pad_token_id=0))
  (tmp_path / "in" / "vocab.txt").write_text("\n".join(
      ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat"]))
  theirs = transformers.BertTokenizer.from_pretrained(tmp_path / "in")

  convert.convert(tmp_path / "in", tmp_path / "ours", "orbax")
  convert.convert(tmp_path / "ours", tmp_path / "out", "safetensors")

  again = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
  text = "The cats [MASK]"
  assert again(text).input_ids == theirs(text).input_ids == [2, 5, 6, 7, 4, 3]
  for name in ("mask", "cls", "sep", "pad", "unk"):
    assert getattr(again, f"{name}_token_id") == getattr(theirs, f"{name}_token_id")


def test_a_table_whose_positions_another_padding_would_move_is_refused(tmp_path):
  """Transformers counts positions of a RoBERTa by its padding token."""
  _, source, params = opened("roberta")
  tokenizer = tokenizer_kinds.Bytes()  # Its padding is token 0.
  model = dataclasses.replace(source.model, vocab_size=300)

  with pytest.raises(errors.UserError, match="must be 1, and the tokenizer's is 0"):
    hugging_face_folder.write(epath.Path(tmp_path), model, params, tokenizer)
  assert not list(tmp_path.iterdir())


def changed(name, folder, fields, drop=()):
  """Copies a checkpoint with other fields in its config, and without some leaves."""
  path = opened(name)[1].path
  path = path if path.is_dir() else path.parent
  made = json.loads((path / "config.json").read_text())
  (folder / "config.json").write_text(json.dumps(made | fields))
  tensors = safetensors.load_file(path / "model.safetensors")
  safetensors.save_file({leaf: x for leaf, x in tensors.items() if leaf not in drop},
                        folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name, fields, message", [
    ("bert", dict(position_embedding_type="relative_key"), "position_embedding_type i"),
    ("bert", dict(is_decoder=True), "is_decoder is True.* part of an encoder-decoder"),
    ("bert", dict(add_cross_attention=True), "add_cross_attention is True"),
    ("bert", dict(type_vocab_size=3), r"token_types?.*\(3, 24\)"),
    ("bert", dict(type_vocab_size=10**4), "model.token_types would be 10000, and the"),
    ("bert", dict(num_hidden_layers=3), "encoder.layer.2.*alone"),
    ("bert", dict(hidden_act="tanh"), "hidden_act is 'tanh', and only"),
    ("bert", dict(embedding_size=8), "embedding_size=8: no model here has"),
    ("roberta", dict(hidden_act="relu"), "hidden_act is 'relu', and only 'gelu'"),
    ("roberta", dict(pad_token_id=3), r"gives \(20, 24\).*\(20, 24\)|max_length"),
    ("distilbert", dict(n_layers=0), "n_layers is 0, and the checkpoint has"),
], ids=str)
def test_unsupported_fields_are_refused_by_name(name, fields, message, tmp_path):
  changed(name, tmp_path, fields)
  if "pad_token_id" in fields:  # It only moves where texts begin in the table.
    assert sources.open(tmp_path).model.position_offset == 4
    return

  with pytest.raises(errors.UserError, match=message):
    sources.open(tmp_path)


def test_a_class_with_a_head_whose_file_has_none_is_refused(tmp_path):
  dense = [f"cls.predictions.transform.{part}" for part in (
      "dense.weight", "dense.bias", "LayerNorm.weight", "LayerNorm.bias")]
  changed("bert", tmp_path, {}, drop=[*dense, "cls.predictions.bias"])

  with pytest.raises(errors.UserError, match="(?s)cls.predictions.* not in the check"):
    sources.open(tmp_path)


def test_a_classifier_is_refused_with_the_flag_that_leaves_it_out(tmp_path):
  torch.manual_seed(0)
  transformers.BertForSequenceClassification(
      transformers.BertConfig(**BERT, num_labels=2)).save_pretrained(tmp_path)

  with pytest.raises(errors.UserError, match="2 leaves.*--unused='classifier"):
    sources.open(tmp_path)
  assert not sources.open(tmp_path, unused=["classifier.*"]).model.head
