"""Compares greedy decoding and beam search of a Marian model with Hugging Face.

Both sides translate the same 1,000 sentences (those of Multi30k's test set of 2016)
with the same weights, token ids, batch size, number of threads and settings, `generate`
of Hugging Face with batches sorted by length and padded to their own longest sentence.
The times are from token ids to token ids; compiling and tokenizing are outside.

A model with random weights never ends a text at a sensible length. So the model, with 4
+ 4 layers of width 256, is first trained for 400 steps on Multi30k by this package,
after which it writes short captions, and exported by `convert --to=safetensors`; it
lies in `runs/translation_benchmark` afterwards. Its translations are not good.

Run: python -m benchmarks.translation (about 3 minutes on 2 idle cores, and 8 more for
the training). It prints a table, then one line of JSON: ratios of times, ours over the
peer's; whether all greedy outputs are identical; and the share of equal beam outputs.
"""

from collections.abc import Callable
import dataclasses
import json
import pathlib

import numpy as np
import torch
import transformers

from benchmarks import timing
from transfer_gen import config as config_lib
from transfer_gen.data import files
from transfer_gen.data import pipeline
from transfer_gen.export import convert
from transfer_gen.generate import bulk
from transfer_gen.run import loop
from transfer_gen.run import trained as trained_lib

ROOT = pathlib.Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "multi30k"
FOLDER = ROOT / "runs" / "translation_benchmark"
# What Marian models compute, see `transfer_gen/maps/marian.py`.
MODEL = config_lib.EncoderDecoder(
    num_layers=4, encoder_layers=4, width=256, num_heads=4, mlp_width=1024,
    position="sinusoidal", sinusoid_halves=True, norm_order="post", activation="silu",
    embed_scale=16.0, logit_bias=True, max_length=512)
THREADS = 2
BATCH = 64
MAX_TOKENS = 64

Texts = list[list[int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sides:
  """Both sides of the comparison.

  Attributes:
    ours: The trained run.
    peer: The same model in Transformers.
    sentences: Token ids of each sentence, as the encoder reads them.
  """
  ours: trained_lib.Trained
  peer: transformers.MarianMTModel
  sentences: Texts


def main() -> None:
  """Runs the comparisons and prints their results."""
  sides = prepare(run(), FOLDER, 1000)
  found = {}
  print(f"{'':28} {'ours':>10} {'peer':>10} {'ratio':>8}")
  for name, beams in (("greedy_over_hf", 1), ("beam4_over_hf", 4)):
    compared = timing.in_turns(ours(sides, beams), theirs(sides, beams), rounds=3)
    found[name] = round(compared.ratio, 4)
    print(f"{name:28} {compared.ours:7.2f} s  {compared.peer:7.2f} s "
          f" {compared.ratio:8.3f}", flush=True)
  found["identical"] = ours(sides, 1)() == theirs(sides, 1)()
  same = [a == b for a, b in zip(ours(sides, 4)(), theirs(sides, 4)())]
  print(json.dumps(found | {"equal_beam_outputs": sum(same) / len(same)}))


def run(steps: int = 400, model: config_lib.EncoderDecoder = MODEL) -> config_lib.Run:
  """Returns the config of the training that gives both sides their weights."""
  pair = lambda split: "|".join(
      str(DATA / f"{split}.{side}.gz") for side in ("en", "de"))
  return config_lib.Run(
      model=model,
      data=config_lib.Data(
          name="files", train=pair("train"), validation=pair("val"),
          test=pair("test_2016_flickr"), length=40, buckets=(24,)),
      tokenizer=config_lib.Tokenizer(kind="bpe", size=8000),
      optim=config_lib.Optim(lr=1e-3, warmup_steps=100),
      train=config_lib.Train(steps=steps, batch_size=32, eval_every=steps,
                             checkpoint_every=steps, log_every=20))


def prepare(
    config: config_lib.Run, folder: pathlib.Path, count: int) -> Sides:
  """Trains and exports the model unless that was done, and opens both sides.

  Args:
    config: The training.
    folder: Where the run and its export lie.
    count: Number of sentences.
  """
  torch.set_num_threads(THREADS)
  exported = folder / "safetensors"
  if not exported.exists():
    loop.train(config, folder / "run")
    convert.convert(folder / "run", exported, "safetensors", "marian")
  mine = trained_lib.open(folder / "run")
  lines = files.lines(str(DATA / "test_2016_flickr.en.gz"))[:count]
  sentences, _ = mine.texts.encoding.encoder_prompts(lines)
  peer = transformers.MarianMTModel.from_pretrained(exported).eval()
  return Sides(ours=mine, peer=peer, sentences=sentences)


def ours(sides: Sides, beams: int) -> Callable[[], Texts]:
  """Returns a function that translates all sentences with this package."""
  mine = sides.ours
  model = mine.texts
  roles = pipeline.roles(mine.tokenizer)
  decoding = config_lib.Decoding(
      max_tokens=MAX_TOKENS, beams=beams, end_tokens=(roles["eos"],))
  inputs = bulk.Inputs(
      prompts=[[roles["bos"]]] * len(sides.sentences), encoder_inputs=sides.sentences,
      budgets=[MAX_TOKENS] * len(sides.sentences))

  def translate():
    found = dict(bulk.write(
        model.module, model.params, inputs, decoding, batch_size=BATCH))
    return [found[i][0] for i in range(len(sides.sentences))]
  return translate


def theirs(sides: Sides, beams: int) -> Callable[[], Texts]:
  """Returns a function that translates all sentences with Transformers."""
  roles = pipeline.roles(sides.ours.tokenizer)
  order = sorted(range(len(sides.sentences)), reverse=True,
                 key=lambda i: len(sides.sentences[i]))

  def translate():
    found: dict[int, list[int]] = {}
    for start in range(0, len(order), BATCH):
      chosen = order[start:start + BATCH]
      rows = [sides.sentences[i] for i in chosen]
      ids = np.full((len(rows), max(map(len, rows))), roles["pad"])
      for row, tokens in zip(ids, rows):
        row[:len(tokens)] = tokens
      lengths = np.array([*map(len, rows)])
      seen = torch.tensor(np.arange(ids.shape[1])[None] < lengths[:, None])
      with torch.inference_mode():
        out = sides.peer.generate(
            torch.tensor(ids), attention_mask=seen.long(), num_beams=beams,
            do_sample=False, max_new_tokens=MAX_TOKENS, eos_token_id=roles["eos"],
            pad_token_id=roles["pad"], decoder_start_token_id=roles["bos"])
      for i, tokens in zip(chosen, out[:, 1:].tolist()):
        ends = [at for at, token in enumerate(tokens)
                if token in (roles["eos"], roles["pad"])]
        found[i] = tokens[:ends[0]] if ends else tokens
    return [found[i] for i in range(len(order))]
  return translate


if __name__ == "__main__":
  main()
