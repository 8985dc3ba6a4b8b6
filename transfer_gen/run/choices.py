"""Fills in what a config leaves open, from the data, the model and the devices.

A field that is 0 where 0 means "chosen" gets a value here, by the rules below. They are
meant to be good enough to begin with, and every choice is printed, so that whoever
wants another value knows which field to set.
"""

from collections.abc import Sequence
import dataclasses
import math
import textwrap
from typing import Any

from etils import epath
import jax
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen.config import codec
from transfer_gen.data import fields
from transfer_gen.data import pipeline
from transfer_gen.run import checks
from transfer_gen.run import source_model

Run = config_lib.Run
# All documents are tokenized later in any case, once lengths are known. These few are
# enough for quantiles, and they alone are tokenized twice.
_SAMPLE = 2000  # Documents whose tokens are counted to choose lengths.
# Quantiles that are close to each other become one length, and so one compiled program.
_ROUNDED = 8  # Lengths are multiples of it.
# Of the documents, what the buckets and the longest row hold.
# Not all of them: rows are padded to their length, and a single odd document would
# decide how much padding the longest rows hold.
_BUCKETS, _LONGEST = (0.25, 0.5, 0.75, 0.9), 0.995
_TEXT_LENGTHS = (64, 256)  # Least and greatest length of rows of a language model.
_VOCABULARY = (512, 16384)  # Least and greatest size of a trained vocabulary.
# The row of a rare token is updated seldom, so little text gets a small vocabulary.
_CHARS_PER_TOKEN = 500  # Characters of training text for each token of a vocabulary.
# A CPU is busy with few tokens, and an accelerator with few would wait for each step.
_BATCH_TOKENS = {"cpu": 2048}
_BATCH_TOKENS_ELSEWHERE = 16384  # For each device.
# Epochs alone would give very small data too few steps to learn from, and very large
# data more than anyone waits for.
_STEPS = (200, 20_000)
# What is transferred begins nearer to its end, and needs fewer passes over the data.
_EPOCHS = {"scratch": 30, "transfer": 10}
# The peak learning rate of a new model of a width of 128. As in Vaswani et al. (2017,
# equation 3), it falls with the square root of the width. What is transferred would be
# forgotten at that rate.
_RATE = {"scratch": 3e-3, "transfer": 1e-3}
# Enough for the spans of T5's noise in rows of twice the length that is chosen.
_SENTINELS = 32
_WIDTH = 100  # Columns of what is printed.
# Rotary positions have no params and no longest text, so lengths stay free.
_MODEL: dict[str, Any] = dict(
    num_layers=4, width=256, num_heads=4, position="rotary")
# Below so many documents a new model drops out more and is narrower, which takes half
# the time on a CPU.
_SMALL = 50_000
_SMALL_MODEL: dict[str, Any] = {**_MODEL, "width": 128}


def begin(run: Run, workdir: epath.PathLike) -> Run:
  """Checks a config, and returns it with what was chosen when its workdir was begun.

  A run that continues elsewhere, on other devices, keeps its first choices.

  Raises:
    errors.UserError: If a field is out of its range or two do not go together.
  """
  checks.check(run)
  if not (epath.Path(workdir) / codec.CONFIG).exists():
    return run
  return run.with_choices_of(codec.read_run(workdir))


def model(run: Run, texts: Sequence[pipeline.Document]) -> Run:
  """Returns a run with a model, and a tokenizer to train, where there is no source.

  Args:
    run: Config of the run, which may take its model from a source that it does not
      have. Other runs keep their model.
    texts: Documents of the training split.
  """
  if isinstance(run.model, str) and not run.all_sources():
    sizes, dropout = (_SMALL_MODEL, 0.3) if len(texts) < _SMALL else (_MODEL, 0.1)
    kind = (config_lib.EncoderDecoder if fields.is_pairs(run.data)
            or run.data.corrupt.noise else config_lib.Decoder)
    small = kind(**sizes, dropout=dropout)
    run = dataclasses.replace(
        run, model=source_model.replaced(small, run.model_changes), model_changes={})
    if run.tokenizer.kind == "source":
      run = run.with_values(
          "tokenizer", kind="bpe", size=0, sentinels=run.tokenizer.sentinels or (
              _SENTINELS if run.data.corrupt.noise else 0))
  if ("tokenizer", "size") in run.open_fields():
    chars = sum(len(text.input) + len(text.target) for text in texts)
    run = run.with_values("tokenizer", size=_between(
        chars // _CHARS_PER_TOKEN // 64 * 64, *_VOCABULARY))
  return run


def lengths(
    run: Run, texts: Sequence[pipeline.Document],
    tokenizer: pipeline.tokenizers.Tokenizer,
) -> Run:
  """Returns the run with the lengths of its rows.

  Args:
    run: Config of the run, whose model is known.
    texts: Documents of the training split.
    tokenizer: Tokenizer of the run.
  """
  if ("data", "length") not in run.open_fields():
    return run
  # The lengths of rows are those of both sides.
  longest = min(side or math.inf for side in (
      run.model.longest, getattr(run.model, "encoder_longest", None)))
  some = texts[::math.ceil(len(texts) / _SAMPLE)]
  counts = _counts(some, pipeline.Encoding(
      run.data, tokenizer, run.model if run.model.encodes else None))
  fits = lambda share: int(min(
      longest, _round_up(float(np.quantile(counts, share)))))
  if not fields.is_pairs(run.data):
    return run.with_values("data", length=int(min(
        longest, _between(fits(0.9), *_TEXT_LENGTHS))))
  length = fits(_LONGEST)
  buckets = sorted({fits(share) for share in _BUCKETS} - {length})
  return run.with_values("data", length=length, buckets=tuple(buckets))


def schedule(run: Run, data: pipeline.Prepared) -> Run:
  """Returns the run with its batch, its number of steps and its rhythm.

  Args:
    run: Config of the run, whose lengths are known.
    data: Its data, tokenized.
  """
  if ("train", "batch_size") in run.open_fields():
    kind, count = jax.default_backend(), jax.device_count()
    run = run.with_values("train", batch_tokens=_BATCH_TOKENS.get(
        kind, _BATCH_TOKENS_ELSEWHERE * count))
  if ("train", "steps") in run.open_fields():
    rows = data.facts["splits"]["train"]["rows"]
    once = sum(count / run.train.rows(int(length)) for length, count in rows.items())
    epochs = _EPOCHS["transfer" if run.all_sources() else "scratch"]
    run = run.with_values("train", steps=_between(math.ceil(epochs * once), *_STEPS))
  if ("optim", "lr") in run.open_fields():
    run = run.with_values("optim", lr=_rate(run))
  steps = run.train.steps
  chosen = {("train", "eval_every"): max(10, steps // 20),
            ("train", "log_every"): max(1, steps // 50),
            ("train", "checkpoint_every"): max(10, steps // 20),
            ("optim", "warmup_steps"): (
                steps // 10 if run.optim.schedule == "slanted"  # `cut_frac` of ULMFiT.
                else min(steps // 20, 1000))}
  for part, name in run.open_fields():
    if (part, name) in chosen:
      run = run.with_values(part, **{name: chosen[part, name]})
  return run


def describe(before: Run, after: Run, data: pipeline.Prepared) -> list[str]:
  """Returns the lines that show a user what was chosen; none if nothing was.

  Args:
    before: The run as it was configured.
    after: The same with all choices.
    data: Its data, tokenized.
  """
  chosen = [(part, name) for part in ("tokenizer", "data", "train", "optim")
            for name in vars(getattr(after, part))
            if after.value(part, name) != before.value(part, name)]
  if not chosen:
    return []
  model_ = [f"model={codec.to_code(after.model)}"] if (
      isinstance(before.model, str) and not before.all_sources()) else []
  rows = sum(data.facts["splits"]["train"]["rows"].values())
  return [f"Chosen for {rows:,} rows of training data; override with"
          " --config.FIELD=VALUE:",
          *(line for text in (*model_, *(
              f"{part}.{name}={after.value(part, name)}" for part, name in chosen))
            for line in textwrap.wrap(text, _WIDTH, initial_indent="  ",
                                      subsequent_indent="    "))]


def _counts(
    texts: Sequence[pipeline.Document], encoding: pipeline.Encoding) -> list[int]:
  """Returns how many positions each document takes, with its special tokens."""
  encoding = dataclasses.replace(
      encoding, config=dataclasses.replace(encoding.config, too_long="drop"))
  inputs, targets, _ = encoding.pairs(
      [text.input for text in texts], [text.target for text in texts])
  sizes = [(len(a), len(b)) for a, b in zip(inputs, targets)]
  # Without a chat template, at most two special tokens stand around each side.
  return [(max(both) if encoding.encoder else sum(both)) + 2 for both in sizes]


def _rate(run: Run) -> float:
  """Returns a peak learning rate for the model of a run."""
  width = max(getattr(run.model, "widths", None) or [run.model.width])
  # A control has sources, which only say what its model is, and a plan that copies
  # nothing.
  rules = getattr(run.transfer, "rules", None)
  anew = not run.all_sources() or (
      rules is not None and all(rule.source is None for rule in rules))
  peak = _RATE["scratch" if anew else "transfer"] * math.sqrt(128 / width)
  return float(f"{peak:.2g}")


def _round_up(count: float) -> int:
  return max(2 * _ROUNDED, math.ceil(count / _ROUNDED) * _ROUNDED)


def _between(value: int, least: int, greatest: int) -> int:
  return min(max(value, least), greatest)
