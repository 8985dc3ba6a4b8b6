"""Tests of checkpoints as they are stored, for architectures and tokenizers alike.

Transformers itself makes each folder, with a tokenizer, an added token and a padded
table, and a form changes how it is stored. What Transformers then reads from it, and
computes in float32 on the same text, is what we must.
"""

import functools
import io
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors import torch as safetensors
import sentencepiece
import tokenizers as tokenizers_lib
from tokenizers import decoders
from tokenizers import models as token_models
from tokenizers import normalizers
from tokenizers import pre_tokenizers
from tokenizers import trainers
import torch
import transformers

from tests import transformers_models
from tests.comparing import distance
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.data import tokenizers
from transfer_gen.models import registry

TOKENS, ROWS = 300, 320  # An added token makes it 301 tokens; the table is padded.
SPECIAL = ["<unk>", "<pad>", "</s>"]
TEXT = "the cat sat on the mat, and the dogs saw <new> cats <new>"
SIZES = dict(vocab_size=TOKENS, hidden_size=24, num_hidden_layers=2,
             num_attention_heads=4, intermediate_size=28, max_position_embeddings=96)
GROUPED = SIZES | dict(num_key_value_heads=2)
PAIR = dict(vocab_size=TOKENS, d_model=24, encoder_layers=1, decoder_layers=1,
            encoder_attention_heads=3, decoder_attention_heads=3, encoder_ffn_dim=28,
            decoder_ffn_dim=28, max_position_embeddings=80, decoder_start_token_id=2)
MODELS = {
    "gpt2": ("GPT2", dict(vocab_size=TOKENS, n_positions=96, n_embd=24, n_layer=2,
                          n_head=3)),
    "opt": ("OPT", dict(vocab_size=TOKENS, hidden_size=24, num_hidden_layers=2,
                        num_attention_heads=4, ffn_dim=28, max_position_embeddings=96)),
    "neox": ("GPTNeoX", SIZES | dict(hidden_size=32)),
    "llama": ("Llama", GROUPED | dict(tie_word_embeddings=True)),
    "mistral": ("Mistral", GROUPED | dict(sliding_window=5)),
    "qwen2": ("Qwen2", GROUPED),
    "qwen3": ("Qwen3", GROUPED | dict(head_dim=8)),
    "gemma": ("Gemma", GROUPED | dict(head_dim=8)),
    "gemma2": ("Gemma2", GROUPED | dict(head_dim=8, sliding_window=5)),
    "gemma3": ("Gemma3", GROUPED | dict(head_dim=8, sliding_window=5)),
    "bert": ("Bert", SIZES),
    "roberta": ("Roberta", SIZES | dict(type_vocab_size=1)),
    "distilbert": ("DistilBert", dict(
        vocab_size=TOKENS, dim=24, n_layers=2, n_heads=4, hidden_dim=28,
        max_position_embeddings=96)),
    "t5": ("T5", dict(vocab_size=TOKENS, d_model=24, d_kv=6, d_ff=28, num_layers=1,
                      num_heads=3, decoder_start_token_id=1)),
    "bart": ("Bart", PAIR),
    "marian": ("Marian", PAIR),
}
ENCODERS = ("bert", "roberta", "distilbert")
PAIRS = {"t5": transformers.T5ForConditionalGeneration,
         "bart": transformers.BartForConditionalGeneration,
         "marian": transformers.MarianMTModel}


def byte_bpe():
  made = tokenizers_lib.Tokenizer(token_models.BPE(unk_token="<unk>"))
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  return made, trainers.BpeTrainer(
      vocab_size=TOKENS, special_tokens=SPECIAL,
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)


def spaced_bpe():
  made = tokenizers_lib.Tokenizer(token_models.BPE(unk_token="<unk>"))
  made.normalizer = normalizers.Sequence(
      [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
  made.decoder = decoders.Sequence([
      decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
  return made, trainers.BpeTrainer(
      vocab_size=TOKENS, special_tokens=SPECIAL, show_progress=False)


def word_piece():
  made = tokenizers_lib.Tokenizer(token_models.WordPiece(unk_token="<unk>"))
  made.normalizer = normalizers.BertNormalizer()
  made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  made.decoder = decoders.WordPiece()
  return made, trainers.WordPieceTrainer(
      vocab_size=TOKENS, special_tokens=SPECIAL, show_progress=False)


def unigram():
  made = tokenizers_lib.Tokenizer(token_models.Unigram())
  made.pre_tokenizer = pre_tokenizers.Metaspace()
  made.decoder = decoders.Metaspace()
  return made, trainers.UnigramTrainer(
      vocab_size=TOKENS, special_tokens=SPECIAL, unk_token="<unk>",
      show_progress=False)


def words():
  made = tokenizers_lib.Tokenizer(token_models.WordLevel(unk_token="<unk>"))
  made.pre_tokenizer = pre_tokenizers.Whitespace()
  return made, trainers.WordLevelTrainer(
      vocab_size=TOKENS, special_tokens=SPECIAL, show_progress=False)


TOKENIZERS = (byte_bpe, spaced_bpe, word_piece, unigram, words)


LINES = [
    *(f"the {a} cat{b} sat on the mats, and dogs saw {b}{a} cats {a * 7}"
      for a in range(40) for b in "abcdefghij"), *TEXT.replace("<new>", "").split(),
    "cat", "mat"]


@functools.cache
def tokenizer(kind):
  """Trains a tokenizer of this kind, with a token that was added afterwards."""
  made, trainer = kind()
  made.train_from_iterator(LINES, trainer)
  fast = transformers.PreTrainedTokenizerFast(
      tokenizer_object=made, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")
  fast.add_tokens(["<new>"])
  return fast


@functools.cache
def model(name):
  """Returns a model whose table has rows that no token has."""
  kind, fields = MODELS[name]
  if name in PAIRS:
    torch.manual_seed(0)
    made = PAIRS[name](getattr(transformers, f"{kind}Config")(
        **fields, pad_token_id=1, eos_token_id=2, bos_token_id=None)).eval()
    # Marian's positions are sinusoids that we compute, so noise there would be lost.
    transformers_models.add_noise(made, 1, but=lambda name: "embed_positions" in name)
  elif name in ENCODERS:
    torch.manual_seed(0)
    made = transformers_models.add_noise(transformers.AutoModelForMaskedLM.from_config(
        getattr(transformers, f"{kind}Config")(**fields, pad_token_id=1)).eval(), 1)
  else:
    made = transformers_models.decoder(kind, fields, special_tokens=dict(
        bos_token_id=None, eos_token_id=2, pad_token_id=1))
  made.resize_token_embeddings(ROWS, mean_resizing=False)
  return made


def change(folder, how):
  """Rewrites the tensors of a folder, by a function of all of them."""
  path = folder / "model.safetensors"
  tensors = how(safetensors.load_file(path))
  safetensors.save_file({name: x.contiguous().clone() for name, x in tensors.items()},
                        path, metadata={"format": "pt"})


def cast(dtype):
  return lambda folder: change(folder, lambda tensors: {
      name: x.to(dtype) if x.is_floating_point() else x
      for name, x in tensors.items()})


def sharded(folder, made):
  (folder / "model.safetensors").unlink()
  made.save_pretrained(folder, max_shard_size="20KB")
  assert len(list(folder.glob("model-*.safetensors"))) > 2


def stale_index(folder, made):
  sharded(folder, made)
  for path in folder.glob("model-*.safetensors"):
    change_file = safetensors.load_file(path)
    safetensors.save_file({k: x + 1 if x.is_floating_point() else x
                           for k, x in change_file.items()}, path,
                          metadata={"format": "pt"})
  made.save_pretrained(folder / "new")
  shutil.move(folder / "new" / "model.safetensors", folder)


def index_with_tied(folder, made):
  sharded(folder, made)
  path = folder / "model.safetensors.index.json"
  index = json.loads(path.read_text())
  for name in ("lm_head.weight", "embed_out.weight"):
    if name not in index["weight_map"] and made.config.tie_word_embeddings and (
        name in dict(made.named_parameters(remove_duplicate=False))):
      index["weight_map"][name] = max(index["weight_map"].values())
  path.write_text(json.dumps(index))


def without_prefix(folder, made):
  """As the model without its head is saved; what is beside it keeps its name."""
  prefix = f"{made.base_model_prefix}."
  change(folder, lambda tensors: {
      name.removeprefix(prefix): x for name, x in tensors.items()})


def pickled(folder, made):
  (folder / "model.safetensors").unlink()
  torch.save(made.state_dict(), folder / "pytorch_model.bin")


def tied_twice(folder, made):
  """Each tied tensor under every name that it has, as `state_dict` lists them."""
  state = made.state_dict()
  change(folder, lambda tensors: {**state, **tensors})


def buffers(folder, made):
  layers = [name.removesuffix("q_proj.weight") for name in made.state_dict()
            if name.endswith("self_attn.q_proj.weight")]
  layers += [name.removesuffix("c_attn.weight") for name in made.state_dict()
             if name.endswith("attn.c_attn.weight")]
  gpt2 = made.config.model_type == "gpt2"
  rotary = made.config.model_type in ("llama", "mistral", "qwen2", "qwen3", "gemma")
  more = {}
  for layer in layers:
    if gpt2:
      more[f"{layer}bias"] = torch.ones(1, 1, 96, 96, dtype=torch.uint8)
      more[f"{layer}masked_bias"] = torch.tensor(-1e4)
    if rotary:
      more[f"{layer}rotary_emb.inv_freq"] = torch.ones(3)
  change(folder, lambda tensors: {**tensors, **more})


FORMS = {
    "whole": lambda folder, made: None,
    "sharded": sharded,
    "stale_index": stale_index,
    "index_with_tied": index_with_tied,
    "without_prefix": without_prefix,
    "tied_twice": tied_twice,
    "pickled": pickled,
    "buffers": buffers,
    "float16": lambda folder, made: cast(torch.float16)(folder),
    "bfloat16": lambda folder, made: cast(torch.bfloat16)(folder),
    "float8": lambda folder, made: cast(torch.float8_e4m3fn)(folder),
}
# OPT and the models of pairs keep all tensors below one prefix that their head shares.
WITHOUT_PREFIX = ("gpt2", "llama", "neox", "mistral", "qwen2", "qwen3", "gemma",
                  "gemma2", "gemma3", *ENCODERS)
CASES = [(name, form) for name in MODELS for form in FORMS
         if form != "without_prefix" or name in WITHOUT_PREFIX]
# By default, all forms of GPT-2 and the tied Llama, and two of each other one.
SHORT = [(name, form) for number, name in enumerate(MODELS)
         for place, form in enumerate(FORMS)
         if name in ("gpt2", "llama") or (place - number) % 6 == 0]


@functools.cache
def _logits(config):
  return jax.jit(registry.build(config).apply)


@pytest.mark.parametrize("name, form", [
    case if case in SHORT else pytest.param(*case, marks=pytest.mark.long)
    for case in CASES])
def test_a_stored_checkpoint_computes_what_transformers_does(tmp_path, name, form):
  made = model(name)
  names = tokenizer(TOKENIZERS[CASES.index((name, form)) % len(TOKENIZERS)])
  made.save_pretrained(tmp_path)
  names.save_pretrained(tmp_path)
  FORMS[form](tmp_path, made)
  auto = (transformers.AutoModelForSeq2SeqLM if name in PAIRS
          else transformers.AutoModelForMaskedLM if name in ENCODERS
          else transformers.AutoModelForCausalLM)
  theirs = auto.from_pretrained(tmp_path, dtype=torch.float32).eval()
  # Not by `AutoTokenizer`, which puts the usual rules of Qwen's tokenizers, say,
  # in the place of those that the file has.
  ids = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)(
      TEXT, add_special_tokens=False).input_ids
  assert ids.count(len(names) - 1) == 2 and len(set(ids)) > 2  # <new>, and others.

  source = sources.open(tmp_path)
  params = {name: np.asarray(value, np.float32)
            for name, value in source.read(list(source.specs))}
  tokens = np.array([ids], np.int32)
  rest = {} if name not in PAIRS else dict(
      encoder_inputs=tokens, encoder_counts=np.array([len(ids)], np.int32))
  ours = np.asarray(_logits(source.model)(
      {"params": tree.unflatten(params)}, tokens, **rest))

  assert source.tokenizer.encode(TEXT) == ids
  with torch.no_grad():
    asked = {"input_ids": torch.tensor([ids])}
    if name in PAIRS:
      asked["decoder_input_ids"] = asked["input_ids"]
    assert distance(ours, theirs(**asked).logits.double().numpy()) <= 2e-5


# How each architecture trains SentencePiece, and what its tokenizer_config.json says.
OWN = dict(byte_fallback=True, normalization_rule_name="identity", split_digits=True,
           remove_extra_whitespaces=False, model_type="bpe", vocab_size=310)
NAMES = dict(eos_token="</s>", unk_token="<unk>")
PIECES = {
    "llama": ("tokenizer.model", OWN, NAMES | dict(
        tokenizer_class="LlamaTokenizer", bos_token="<s>")),
    "llama legacy": ("tokenizer.model", OWN, NAMES | dict(
        tokenizer_class="LlamaTokenizer", bos_token="<s>", legacy=True)),
    "gemma": ("tokenizer.model", OWN | dict(
        add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3), NAMES | dict(
            tokenizer_class="GemmaTokenizer", bos_token="<s>", pad_token="<pad>")),
    "t5": ("spiece.model", dict(
        model_type="unigram", vocab_size=90, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        character_coverage=1.0), NAMES | dict(
            tokenizer_class="T5Tokenizer", pad_token="<pad>", extra_ids=0)),
}


def write_pieces(folder, name, beside):
  """Writes a SentencePiece model, and a token that was added; returns its id."""
  file, fields, names = PIECES[name]
  trained = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(LINES), model_writer=trained, hard_vocab_limit=False,
      minloglevel=2, **fields)
  (folder / file).write_bytes(trained.getvalue())
  new = sentencepiece.SentencePieceProcessor(
      model_proto=trained.getvalue()).get_piece_size()
  if beside:
    (folder / "added_tokens.json").write_text(json.dumps({"<new>": new}))
  else:
    token = dict(content="<new>", special=False, lstrip=False, rstrip=False,
                 normalized=False, single_word=False)
    names = {**names, "added_tokens_decoder": {str(new): token}}
  (folder / "tokenizer_config.json").write_text(json.dumps(names))
  return new


def test_a_sentencepiece_model_is_found_under_each_of_its_usual_names(tmp_path):
  model("llama").save_pretrained(tmp_path)
  new = write_pieces(tmp_path, "llama", True)
  file = tmp_path / "tokenizer.model"

  for name in tokenizers.MODELS:
    file = file.rename(tmp_path / name)
    assert sources.open(tmp_path).tokenizer.size == new + 1, name


@pytest.mark.parametrize("name, beside", [
    ("llama", True), ("llama legacy", False), ("gemma", True), ("t5", False),
    *(pytest.param(name, beside, marks=pytest.mark.long) for name, beside in (
        ("llama", False), ("llama legacy", True), ("gemma", False), ("t5", True)))])
def test_a_sentencepiece_model_gives_the_ids_and_texts_of_transformers(
    tmp_path, name, beside):
  made = model(name.split()[0])
  made.save_pretrained(tmp_path)
  new = write_pieces(tmp_path, name, beside)
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)

  source = sources.open(tmp_path)

  texts = ("cats<new>cats", "<new>the mat", "dogs, the 12 cats")
  # With `legacy`, versions of Transformers differ where a space follows a token.
  for text in texts if "legacy" in name else (*texts, "<new> <new>", TEXT):
    ids = theirs(text, add_special_tokens=False).input_ids
    assert ids.count(new) == text.count("<new>")
    assert source.tokenizer.encode(text) == ids
    assert source.tokenizer.encode_batch([text]) == [ids]
    if name in ("llama", "gemma"):  # The others do not say where there was a space.
      assert source.tokenizer.decode(ids) == theirs.decode(ids) == text
  params = {name: np.asarray(value, np.float32)
            for name, value in source.read(list(source.specs))}
  tokens = np.array([ids], np.int32)
  rest = {} if name not in PAIRS else dict(
      encoder_inputs=tokens, encoder_counts=np.array([tokens.size], np.int32))
  ours = np.asarray(_logits(source.model)(
      {"params": tree.unflatten(params)}, tokens, **rest))
  with torch.no_grad():
    asked = {"input_ids": torch.tensor(tokens)}
    if name in PAIRS:
      asked["decoder_input_ids"] = asked["input_ids"]
    assert distance(ours, made(**asked).logits.double().numpy()) <= 2e-5
