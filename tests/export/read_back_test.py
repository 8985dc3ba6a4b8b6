"""Tests for what Transformers reads back from an export: ids, templates, settings."""

import io
import json

import numpy as np
import pytest
import sentencepiece
import tokenizers
import torch
import transformers

from tests import transformers_models
from transfer_gen.export import convert

V = 64
TEXTS = ["hello world, a dog", "a cat and a dog", "hello cat, hello world"] * 8
CHAT = "{% for m in messages %}<turn>{{ m['content'] }}{% endfor %}"
DRAWN = dict(do_sample=True, temperature=0.7, top_p=0.9, top_k=40, max_new_tokens=9,
             repetition_penalty=1.2, forced_eos_token_id=2)
IDS = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
ENDS = dict(eos_token_id=[2, 3])
PAIR = dict(decoder_start_token_id=4)
SMALL = dict(d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
             decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8,
             max_position_embeddings=32, vocab_size=V)
BEAMS = dict(num_beams=3, length_penalty=0.8, no_repeat_ngram_size=2,
             forced_bos_token_id=7, forced_eos_token_id=2, max_new_tokens=9)
# Config, settings of generation, and whether the template is a file of its own.
MODELS = {
    "gpt2": (transformers.GPT2Config(
        vocab_size=V, n_positions=32, n_embd=8, n_layer=1, n_head=2, **IDS | ENDS),
             IDS | ENDS | DRAWN, True),
    "llama": (transformers.LlamaConfig(
        vocab_size=V, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=32, **IDS | ENDS),
              IDS | ENDS | DRAWN, False),
    "t5": (transformers.T5Config(
        vocab_size=V, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, **PAIR,
        **IDS), IDS | ENDS | PAIR | DRAWN, True),
    "bart": (transformers.BartConfig(**SMALL, **PAIR, **IDS),
             IDS | ENDS | PAIR | BEAMS, False),
    "marian": (transformers.MarianConfig(
        **SMALL, **IDS | dict(eos_token_id=0, pad_token_id=V - 1),
        decoder_start_token_id=V - 1, scale_embedding=True,
        static_position_embeddings=True), dict(
            eos_token_id=[0, 7], pad_token_id=V - 1, decoder_start_token_id=V - 1,
            num_beams=2, forced_eos_token_id=0, max_new_tokens=9), False),
}
# What a tokenizer puts around a text, as those of the architecture do.
MARKS = {"t5": "$A <stop>", "bart": "<go> $A <stop>"}


def _pieces(**fields):
  made = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(TEXTS), model_writer=made, vocab_size=40, minloglevel=2,
      hard_vocab_limit=False, **fields)
  return made.getvalue()


def _marian_files(folder):
  model = _pieces()
  for name in ("source.spm", "target.spm"):
    (folder / name).write_bytes(model)
  found = sentencepiece.SentencePieceProcessor(model_proto=model)
  pieces = [found.id_to_piece(i) for i in range(found.get_piece_size())]
  names = ["</s>", "<unk>", *(x for x in pieces if x not in ("<s>", "</s>", "<unk>"))]
  (folder / "vocab.json").write_text(json.dumps(
      {name: i for i, name in enumerate(names)} | {"<pad>": V - 1}))
  (folder / "tokenizer_config.json").write_text(json.dumps({
      "tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "de",
      "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}))


def _fast_files(folder, name, jinja):
  made = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<what>"))
  made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
  made.decoder = tokenizers.decoders.Metaspace()
  names = ["<fill>", "<go>", "<stop>", "<turn>", "<what>"]
  made.train_from_iterator(TEXTS, tokenizers.trainers.BpeTrainer(
      vocab_size=V, special_tokens=names, show_progress=False))
  if name in MARKS:
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single=MARKS[name], special_tokens=[("<go>", 1), ("<stop>", 2)])
  fast = transformers.PreTrainedTokenizerFast(
      tokenizer_object=made, bos_token="<go>", eos_token="<stop>", pad_token="<fill>",
      unk_token="<what>", additional_special_tokens=["<turn>"])
  fast.chat_template = CHAT
  fast.save_pretrained(folder, save_jinja_files=jinja)


@pytest.fixture(name="theirs", scope="module", params=MODELS)
def _theirs(request, tmp_path_factory):
  """A folder that Transformers wrote, with special tokens of unusual names and ids."""
  config, settings, jinja = MODELS[request.param]
  folder = tmp_path_factory.mktemp(request.param)
  kind = (transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder
          else transformers.AutoModelForCausalLM)
  model = transformers_models.add_noise(kind.from_config(config), 0)
  model.generation_config = transformers.GenerationConfig(**settings)
  model.save_pretrained(folder)
  if request.param == "marian":
    _marian_files(folder)
  else:
    _fast_files(folder, request.param, jinja)
  return folder, kind


@pytest.fixture(name="ours", scope="module", params=["at_once", "through_a_workdir"])
def _ours(request, theirs, tmp_path_factory):
  """The folder that is exported from it."""
  folder = tmp_path_factory.mktemp("ours")
  source = theirs[0]
  if request.param != "at_once":
    convert.convert(source, folder / "workdir", "orbax")
    source = folder / "workdir"
  convert.convert(source, folder / "written", "safetensors")
  return folder / "written"


def test_special_tokens_texts_and_chat_template_are_those_of_the_source(theirs, ours):
  want, got = map(transformers.AutoTokenizer.from_pretrained, (theirs[0], ours))

  for role in ("bos", "eos", "pad", "unk"):
    assert getattr(got, f"{role}_token_id") == getattr(want, f"{role}_token_id"), role
  assert {*got.all_special_ids} >= {*want.all_special_ids}
  assert got.chat_template == want.chat_template
  for text in ("hello world", "a dog, a cat"):
    ids = want(text)["input_ids"]
    assert got(text)["input_ids"] == ids
    assert got.decode(ids) == want.decode(ids)
    assert (got.decode(ids, skip_special_tokens=True)
            == want.decode(ids, skip_special_tokens=True))
  if want.chat_template:
    talk = [{"role": "user", "content": "hello"}]
    assert (got.apply_chat_template(talk, tokenize=False)
            == want.apply_chat_template(talk, tokenize=False) == "<turn>hello")


def test_generation_configs_are_those_of_the_source(theirs, ours):
  want, got = (transformers.GenerationConfig.from_pretrained(folder).to_diff_dict()
               for folder in (theirs[0], ours))

  # Written or not, a token that is never used changes nothing: a start that is given.
  for one in (want, got):
    one.pop("transformers_version", None)
    if "decoder_start_token_id" in one:
      one.pop("bos_token_id", None)
  assert got == want
  assert want["eos_token_id"][1:] and len(want) > 5  # Not vacuous.


def test_the_model_computes_and_writes_the_same(theirs, ours):
  folder, kind = theirs
  tokens = torch.tensor(np.random.default_rng(0).integers(8, 40, (1, 6)))

  want, got = (kind.from_pretrained(x).eval() for x in (folder, ours))

  for field in ("eos_token_id", "pad_token_id", "decoder_start_token_id"):
    assert getattr(got.config, field, None) == getattr(want.config, field, None), field
  written = []
  for model in (want, got):
    torch.manual_seed(0)
    written.append(model.generate(tokens).tolist())
  assert written[0] == written[1]


def test_a_sentencepiece_model_is_exported_with_the_class_that_reads_it(tmp_path):
  config, _, _ = MODELS["llama"]
  transformers.AutoModelForCausalLM.from_config(config).save_pretrained(
      tmp_path / "theirs")
  (tmp_path / "theirs" / "tokenizer.model").write_bytes(_pieces(model_type="bpe"))
  (tmp_path / "theirs" / "tokenizer_config.json").write_text(json.dumps({
      "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
      "unk_token": "<unk>", "add_bos_token": True}))

  convert.convert(tmp_path / "theirs", tmp_path / "w", "orbax")
  convert.convert(tmp_path / "w", tmp_path / "ours", "safetensors")

  want, got = (transformers.AutoTokenizer.from_pretrained(tmp_path / name)
               for name in ("theirs", "ours"))
  ids = want("hello world")["input_ids"]
  assert got("hello world")["input_ids"] == ids and len(ids) > 2
  assert got.bos_token_id == want.bos_token_id == ids[0]
