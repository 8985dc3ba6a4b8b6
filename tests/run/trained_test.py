"""Tests that a converted encoder-decoder generates the same texts as Transformers."""

import tokenizers as hf_tokenizers
import torch
import transformers

from transfer_gen import __main__ as main
from transfer_gen import config
from transfer_gen.run import trained

TOKENS = "<pad> </s> <unk> a b c d e f g h".split()
ASKED = ("abca", "hgf", "d")


def saved(folder):
  """Saves a random T5 with a tokenizer of letters, and returns the model."""
  torch.manual_seed(5)
  model = transformers.T5ForConditionalGeneration(transformers.T5Config(
      vocab_size=len(TOKENS), d_model=16, d_kv=8, d_ff=20, num_layers=2, num_heads=2,
      pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)).eval()
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for param in model.parameters():
      param += 0.4 * torch.randn(param.shape, generator=generator)
  model.save_pretrained(folder)
  own = hf_tokenizers.Tokenizer(hf_tokenizers.models.BPE(
      {token: i for i, token in enumerate(TOKENS)}, [], unk_token="<unk>"))
  own.add_special_tokens(TOKENS[:3])
  own.decoder = hf_tokenizers.decoders.Fuse()
  own.save(str(folder / "tokenizer.json"))
  return model


def theirs(model, text, beams):
  ids = [TOKENS.index(letter) for letter in text] + [1]  # T5 ends inputs with eos.
  out = model.generate(torch.tensor([ids]), do_sample=False, num_beams=beams,
                       max_new_tokens=8)[0].tolist()
  return "".join(TOKENS[i] for i in out if 2 < i < len(TOKENS))


def test_a_converted_t5_generates_the_same_text_as_transformers(tmp_path):
  model = saved(tmp_path / "in")

  main.run(["transfer-gen", "convert", f"--source={tmp_path / 'in'}",
            f"--output={tmp_path / 'ours'}"])
  ours = trained.open(tmp_path / "ours")

  greedy, best = ([row[0] for row in ours.answers(ASKED, config.Decoding(
      max_tokens=8, beams=beams)).texts] for beams in (1, 3))
  assert greedy == [theirs(model, text, 1) for text in ASKED]
  assert best == [theirs(model, text, 3) for text in ASKED]
  assert len({*greedy}) == 3 and best != greedy
