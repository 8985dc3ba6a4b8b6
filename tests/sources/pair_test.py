"""Tests for pairs that are warm-started from two checkpoints.

`EncoderDecoderModel.from_encoder_decoder_pretrained` of Hugging Face Transformers makes
the same pairs; what it draws anew is taken from it where outputs are compared.
"""

import dataclasses
import functools
import json
import tempfile

import jax
import numpy as np
import pytest
import torch
import transformers

from tests import random_models
from tests import transformers_models
from tests.comparing import distance
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.config import codec
from transfer_gen.data import tokenizers
from transfer_gen.export import convert
from transfer_gen.generate import sampling
from transfer_gen.models import registry
from transfer_gen.transfer import audit as audit_lib
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import restore
from transfer_gen.transfer import structure
from transfer_gen.transfer import table

V = 41
BERT = dict(vocab_size=V, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
            intermediate_size=28, max_position_embeddings=50)
MODELS = {
    "bert": lambda: transformers.BertForPreTraining(transformers.BertConfig(**BERT)),
    "roberta": lambda: transformers.RobertaForMaskedLM(transformers.RobertaConfig(
        **BERT, type_vocab_size=1)),
    "distilbert": lambda: transformers.DistilBertForMaskedLM(
        transformers.DistilBertConfig(
            vocab_size=V, dim=24, n_layers=1, n_heads=3, hidden_dim=28,
            max_position_embeddings=50)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=37, n_positions=50, n_embd=32, n_layer=2, n_head=2,
        bos_token_id=2, eos_token_id=3)),
    "t5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(
        vocab_size=V, d_model=24, d_kv=6, d_ff=28, num_layers=1, num_heads=3,
        decoder_start_token_id=0)),
}
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqr",
          *(f"##{c}" for c in "abcdefghijklmnopqr")]
PAIRS = pytest.mark.parametrize("encoder, decoder", [
    ("bert", "gpt2"), ("distilbert", "bert"),
    pytest.param("bert", "bert", marks=pytest.mark.long),
    pytest.param("roberta", "roberta", marks=pytest.mark.long)])
RNG = np.random.default_rng(0)
COUNTS = np.array([9, 4, 6], np.int32)
VALID = np.arange(9)[None] < COUNTS[:, None]
READ = np.where(VALID, RNG.integers(5, V, (3, 9)), 1).astype(np.int32)
INPUTS = RNG.integers(5, 37, (3, 12)).astype(np.int32)
LEARNS = (plan_lib.Group(name="all", params=".*"),)


@functools.cache
def folder(name):
  """Saves a model with random params, and returns its folder."""
  torch.manual_seed(0)  # Initial values are drawn from the global generator.
  made = tempfile.mkdtemp()
  transformers_models.add_noise(MODELS[name]().eval(), 1).save_pretrained(made)
  return made


@functools.cache
def theirs(encoder, decoder):
  """Returns Transformers' pair, and what we read of it."""
  torch.manual_seed(0)
  made = transformers.EncoderDecoderModel.from_encoder_decoder_pretrained(
      folder(encoder), folder(decoder))
  made.config.decoder_start_token_id = 2
  made.set_attn_implementation("eager")
  with torch.no_grad():  # What is new there has norms of 1 and biases of 0.
    for name, param in made.named_parameters():
      if "cross" in name or "enc_to_dec" in name:
        param += 0.25 * torch.randn(param.shape)
  return made.eval(), *transformers_models.opened(made)


def opened(encoder, decoder):
  return sources.open(f"{folder(encoder)}|{folder(decoder)}")


def transferred(source, model, cross="fresh", **fields):
  """Returns the rows of a warm start, and its params."""
  module = registry.build(model)
  rows = resolve.resolve(
      plan_lib.TransferPlan(
          rules=structure.warm_start(model, cross), groups=LEARNS, **fields),
      {"": source.specs}, registry.specs(module), constants={
          "": source.constants, resolve.TARGET: registry.constants(model)})
  return rows, restore.restore(
      rows, {"": source}, registry.fresh(module, jax.random.key(7)))


# What the audit says of masks that a side did not have in its source.
NO_MASK = "the encoder runs its blocks without their causal mask: each place reads"
MASK = "the decoder runs its blocks with a causal mask: no place reads those behind it"


def told_of(rows, constants, model):
  """Returns the sentences on masks in the audit of rows."""
  plan = plan_lib.TransferPlan(rules=structure.warm_start(model), groups=LEARNS)
  shown = table.full(audit_lib.summarize(plan, rows, {}, {
      "": constants, resolve.TARGET: registry.constants(model)}))
  assert shown.count("causal mask") == sum(shown.count(one) for one in (NO_MASK, MASK))
  return [one for one in (NO_MASK, MASK) for _ in range(shown.count(one))]


def logits_of(model, params, inputs=INPUTS, read=READ):
  return np.asarray(jax.jit(registry.build(model).apply)(
      {"params": tree.unflatten(params)}, inputs, encoder_inputs=read,
      encoder_counts=COUNTS))


@PAIRS
def test_a_pair_is_that_of_transformers_but_for_what_is_new(encoder, decoder):
  made, composed, same = theirs(encoder, decoder)
  pair = opened(encoder, decoder)

  rows, params = transferred(pair, pair.model)

  drawn = {row.name for row in rows if not row.sources}
  assert drawn == {name for name in same if "cross" in name or "bridge" in name}
  for name in same.keys() - drawn:
    np.testing.assert_array_equal(params[name], same[name])
  asked = {"input_ids": torch.tensor(READ, dtype=torch.int64),
           "attention_mask": torch.tensor(VALID, dtype=torch.int64)}
  with torch.no_grad():
    want = made(**asked, decoder_input_ids=torch.tensor(
        INPUTS, dtype=torch.int64)).logits.double().numpy()
  mixed = {**params, **{name: same[name] for name in drawn}}
  assert distance(logits_of(pair.model, mixed), want) <= 1e-5
  # They differ in where answers begin alone, which a pair leaves to its tokenizer.
  model = dataclasses.replace(pair.model, start_token=2)
  new = sampling.generate(
      registry.build(model), mixed, decoding=config.Decoding(
          max_tokens=8, suppress=(0, 1)),
      encoder_inputs=[row[:count].tolist() for row, count in zip(READ, COUNTS)])
  assert new == made.generate(
      **asked, do_sample=False, max_new_tokens=8, min_new_tokens=8,
      suppress_tokens=[0, 1], decoder_start_token_id=2, eos_token_id=None,
      pad_token_id=0)[:, 1:].tolist()
  assert composed.model.encoder_marks == pair.model.encoder_marks == "both"


def test_a_decoder_as_an_encoder_reads_without_its_mask_and_the_audit_says_so():
  made, _, same = theirs("distilbert", "bert")
  gpt2 = transformers.GPT2Model.from_pretrained(folder("gpt2")).eval()
  gpt2.set_attn_implementation("eager")
  pair = opened("gpt2", "bert")
  rows, params = transferred(pair, pair.model)
  params = params | {name: same[name] for name in params if "cross" in name}
  read, kernel = READ % 37, RNG.normal(size=(32, 24)).astype(np.float32)
  params = params | {"bridge/kernel": kernel, "bridge/bias": np.ones(24, np.float32)}
  def want(mask):
    with torch.no_grad():
      states = gpt2(torch.tensor(read, dtype=torch.int64),
                    attention_mask=torch.tensor(mask))[0]
      return made.decoder(
          input_ids=torch.tensor(INPUTS, dtype=torch.int64),
          encoder_hidden_states=states @ torch.tensor(kernel) + 1,
          encoder_attention_mask=torch.tensor(VALID, dtype=torch.int64),
      ).logits.double().numpy()
  # A mask of four axes is taken as it is: each place reads all that is no padding.
  bias = np.where(VALID, 0, np.finfo(np.float32).min)[:, None, None].astype(np.float32)

  got = np.asarray(jax.jit(registry.build(pair.model).apply)(
      {"params": tree.unflatten(params)}, INPUTS, encoder_inputs=read,
      encoder_counts=COUNTS))

  assert distance(got, want(np.broadcast_to(bias, (3, 1, 9, 9)))) <= 1e-5
  assert distance(got, want(VALID.astype(np.int64))) > 1e-3  # With GPT-2's own mask.
  assert told_of(rows, pair.constants, pair.model) == [NO_MASK, MASK]


@pytest.mark.parametrize("name, shared, told", [
    ("gpt2", False, [NO_MASK]), ("bert", False, [MASK]), ("gpt2", True, [NO_MASK]),
    ("bert", True, [MASK])])
def test_the_audit_names_the_side_that_runs_its_blocks_with_another_mask(
    name, shared, told):
  pair = opened(name, name)
  unused = tuple(leaf for leaf in pair.specs if shared and leaf.startswith("encoder/"))
  model = registry.sharing(pair.model) if shared else pair.model

  rows, params = transferred(pair, model, unused_source=unused)

  assert told_of(rows, pair.constants, model) == told
  if shared:  # The blocks do run both ways, and a run that goes on is told nothing.
    assert not told_of(rows, registry.constants(model), model)
    encoded = lambda read: random_models.apply(
        registry.build(model), params, read, COUNTS, method="encoded")["top"][0, 0]
    read, changed = READ % 37, np.where(
        np.arange(9) == 8, 5, READ % 37).astype(np.int32)
    assert distance(encoded(read), encoded(changed)) > 1e-4
    written = lambda tokens: logits_of(model, params, tokens, read)[:, 0]
    assert np.isfinite(written(INPUTS)).all()
    later = np.where(np.arange(12) > 0, 6, INPUTS).astype(np.int32)
    assert distance(written(later), written(INPUTS)) < 1e-6


def test_of_one_side_alone_the_other_is_drawn_but_for_its_table():
  for side, path in (("encoder", f"{folder('bert')}|"), ("decoder", "|{bert}")):
    pair = sources.open(path.format(bert=folder("bert")))
    other = "decoder" if side == "encoder" else "encoder"
    rules = structure.warm_start(pair.model, drawn=other)
    rows = resolve.resolve(
        plan_lib.TransferPlan(rules=rules, groups=LEARNS), {"": pair.specs},
        registry.specs(registry.build(pair.model)))
    alone = sources.open(folder("bert"))

    came = {row.name: row.sources for row in rows if row.sources}

    at = {"encoder": "encoder/", "decoder": "decoder/"}[side]
    blocks = {name for name in alone.specs if name.startswith("layer_")}
    assert {f"{at}{name}" for name in blocks} <= came.keys()
    assert not any(name.startswith(f"{other}/layer_") for name in came)
    own = "encoder/embed/embedding" if side == "encoder" else "embed/embedding"
    assert came["embed/embedding"] == came["encoder/embed/embedding"] == (own,)
    assert ("head/bias" in came) == (side == "decoder")
    [(_, table_)] = pair.read([own])
    [(_, want)] = alone.read(["embed/embedding"])
    np.testing.assert_array_equal(table_, want)
  with pytest.raises(errors.UserError, match="drawn is 'both', must be '' or one of"):
    structure.warm_start(pair.model, drawn="both")


def test_cross_attention_may_begin_as_self_attention():
  pair = opened("bert", "gpt2")

  rows, params = transferred(pair, pair.model, cross="self")

  assert {row.name for row in rows if not row.sources} == {
      "bridge/bias", "bridge/kernel"}
  for part in ("query/kernel", "out/bias"):
    np.testing.assert_array_equal(
        params[f"decoder/layer_1/cross_attn/{part}"],
        params[f"decoder/layer_1/attn/{part}"])
  np.testing.assert_array_equal(
      params["decoder/layer_0/cross_norm/scale"],
      params["decoder/layer_0/attn_norm/scale"])
  with pytest.raises(errors.UserError, match="cross is 'copy', must be 'self' or 'f"):
    structure.warm_start(pair.model, "copy")


def test_sides_share_their_blocks_where_both_come_from_one_checkpoint():
  pair = opened("roberta", "roberta")
  model = registry.sharing(pair.model)
  unused = tuple(name for name in pair.specs if name.startswith("encoder/"))

  rows, params = transferred(pair, model, unused_source=unused)

  count = lambda names: sum(np.size(params[name]) for name in names)
  assert not any(name.startswith("encoder/") for name in params)
  drawn = [row.name for row in rows if not row.sources]
  # Of each layer four kernels of 24 x 24 with their biases, and a norm.
  assert count(drawn) == 2 * (4 * (24 * 24 + 24) + 2 * 24)
  apart = {name: params[name] if name in params else params[
      name.removeprefix("encoder/") if "/embed/" in name
      else name.replace("encoder/", "decoder/", 1)] for name in registry.specs(
          registry.build(pair.model))}
  assert distance(logits_of(model, params), logits_of(pair.model, apart)) <= 1e-6


def test_a_workdir_can_be_a_side(tmp_path):
  convert.convert(folder("bert"), tmp_path / "run", "orbax")

  source = sources.open(f"{tmp_path / 'run'} | {folder('gpt2')}")

  name = "encoder/layer_1/attn/query/kernel"
  (_, found), = source.read([name])
  (_, want), = opened("bert", "gpt2").read([name])
  np.testing.assert_array_equal(found, want)


def test_an_encoder_that_computes_otherwise_than_its_source_is_refused():
  pair = opened("bert", "gpt2")
  other = dataclasses.replace(pair.model, encoder=dataclasses.replace(
      pair.model.encoder, activation="relu"))

  with pytest.raises(resolve.PlanError) as error:
    transferred(pair, other)
  transferred(pair, other, may_differ=("activation",))

  assert "activation is 'gelu_exact' there and 'relu' here" in str(error.value)
  assert "norm_epsilon" not in str(error.value)  # GPT-2 has another than BERT.


def test_kinds_of_tokens_that_a_target_does_not_know_are_refused():
  pair = opened("bert", "gpt2")
  other = dataclasses.replace(pair.model, encoder=dataclasses.replace(
      pair.model.encoder, token_types=0))

  with pytest.raises(resolve.PlanError, match="read by no rule: encoder/token_type"):
    transferred(pair, other)


def with_pieces(path, more=()):
  """Writes a BERT and a vocabulary into a folder."""
  made = transformers.BertModel(transformers.BertConfig(**BERT))
  made.save_pretrained(path)
  (path / "vocab.txt").write_text("\n".join([*PIECES[:V - len(more)], *more]) + "\n")


def test_sides_keep_one_tokenizer_if_they_have_the_same(tmp_path):
  for name, more in (("one", ()), ("same", ()), ("other", ("zz",))):
    with_pieces(tmp_path / name, more)

  same = sources.open(f"{tmp_path}/one|{tmp_path}/same").tokenizer
  apart = sources.open(f"{tmp_path}/one|{tmp_path}/other").tokenizer

  assert tokenizers.own_encoder(same) is None and same.encode("abc") == [5, 24, 25]
  assert tokenizers.own_encoder(apart).encode_batch(["zz"]) == [[1]]
  assert apart.encode("zz") == [V - 1]
  assert opened("bert", "gpt2").tokenizer is None  # Neither has one.


def test_a_decoder_without_a_head_uses_its_table_or_draws_one(tmp_path):
  with_pieces(tmp_path)

  pair = sources.open(f"{tmp_path}|{tmp_path}")
  model = dataclasses.replace(
      pair.model, transform=True, logit_bias=True, tied=False)

  rules = structure.warm_start(model, source=pair.model)
  rows = resolve.resolve(
      plan_lib.TransferPlan(rules=rules, groups=LEARNS), {"": pair.specs},
      registry.specs(registry.build(model)))

  assert (pair.model.tied, pair.model.transform, pair.model.logit_bias) == (
      True, False, False)
  assert {row.name for row in rows if not row.sources and "cross" not in row.name} == {
      "head/bias", "head/kernel", "transform/dense/bias", "transform/dense/kernel",
      "transform/norm/bias", "transform/norm/scale"}


@pytest.mark.parametrize("path, fields, message", [
    ("|", {}, "both sides are missing; give ENCODER|DECODER, ENCODER| or |DECODER"),
    ("|nowhere", {}, "nowhere"),
    ("{bert}|nowhere", {}, "nowhere"),
    ("{bert}|{t5}", {}, "decoder of a pair cannot be made of .* type EncoderDecoder"),
    ("{bert}|{gpt2}", dict(map_name="bert"), "two checkpoints, and map is of one"),
    ("{bert}|{gpt2}", dict(unused=["x"], step=3), "and step, unused is of one"),
])
def test_what_is_no_pair_is_refused(path, fields, message):
  with pytest.raises(errors.UserError, match=message):
    sources.open(path.format(**{name: folder(name) for name in MODELS}), **fields)


def test_sides_that_differ_cannot_share_their_blocks():
  with pytest.raises(errors.UserError, match="(?s)shared is True.*differ in .*width"):
    registry.sharing(opened("bert", "gpt2").model)


def test_a_pair_is_listed_and_not_converted(tmp_path):
  path = f"{folder('bert')}|{folder('gpt2')}"

  title, specs = sources.leaves(path)
  with pytest.raises(errors.UserError, match="whole only with a cross-attention.*warm"):
    convert.convert(path, tmp_path / "out", "safetensors")

  assert "encoder/embed/embedding" in specs and title.startswith("encoder: ")
  assert not (tmp_path / "out").exists()


def test_a_config_with_an_encoder_of_its_own_is_written_and_read():
  pair = opened("bert", "gpt2").model

  again = codec.model_from_json(json.loads(json.dumps(codec.model_to_json(pair))))

  assert again == pair and "encoder=config.Encoder(" in codec.to_code(pair)
  assert eval(codec.to_code(pair), {"config": config}) == pair
