"""Tests for what is chosen from the data where a config leaves it open."""

import dataclasses

import numpy as np
import pytest

from transfer_gen import config
from transfer_gen.config import codec
from transfer_gen.data import fields
from transfer_gen.run import choices
from transfer_gen.run import loop
from transfer_gen.run import reader

OPEN = config.Train(steps=0, batch_size=0, log_every=0, eval_every=0,
                    checkpoint_every=0)


def _run(folder, pairs=True, **changes):
  """Returns a run that leaves all open, on 400 pairs of 1 to 20 letters."""
  random = np.random.default_rng(0)
  words = ["".join(random.choice(list("abcdef"), random.integers(1, 20)))
           for _ in range(400)]
  (folder / "a.txt").write_text("\n".join(words) + "\n")
  (folder / "b.txt").write_text("\n".join(word[::-1] for word in words) + "\n")
  a, b = folder / "a.txt", folder / "b.txt"
  data = config.Data(name="files", train=f"{a}|{b}" if pairs else str(a), length=0,
                     input_field="input" if pairs else "",
                     target_field="target" if pairs else "text")
  return config.Run(model="source", data=data, train=dataclasses.replace(OPEN),
                    tokenizer=config.Tokenizer(kind="characters"),
                    optim=config.Optim(warmup_steps=-1, lr=0), **changes)


@pytest.mark.parametrize("pairs", [True, False])
def test_a_run_that_leaves_all_open_gets_every_value(tmp_path, pairs):
  inputs = reader.Reader().read(_run(tmp_path, pairs), tmp_path / "w")

  run = inputs.run
  assert not run.open_fields()
  assert run.model.encodes == fields.is_pairs(run.data) == pairs
  for part, name in (("data", "length"), ("train", "steps"), ("optim", "warmup_steps"),
                     ("optim", "lr")):
    assert any(line.strip() == f"{part}.{name}={run.value(part, name)}"
               for line in inputs.notes)


@pytest.mark.parametrize("model, lr", [
    (config.Decoder(width=128), 0.003), (config.Decoder(width=512), 0.0015),
    (config.Recurrent(hidden_widths=(64, 2048)), 0.00075)])
def test_wider_models_get_a_lower_rate(tmp_path, model, lr):
  run = dataclasses.replace(_run(tmp_path, pairs=False), model=model)

  assert reader.Reader().read(run, tmp_path / "w").run.optim.lr == lr


def test_the_chosen_length_holds_nearly_all_pairs(tmp_path):
  data = reader.Reader().read(_run(tmp_path), tmp_path / "w").data

  splits = data.facts["splits"]["train"]
  assert splits["kept"] >= 0.99 * splits["read"] * 0.8
  assert splits["dropped"].get("too_many_tokens", 0) <= 0.01 * splits["read"]
  assert len(data.lengths) > 1


def test_batches_by_tokens_have_more_rows_where_rows_are_short(tmp_path):
  run = _run(tmp_path)
  run.train.batch_tokens = 512
  inputs = reader.Reader().read(run, tmp_path / "w")
  batches = inputs.data.train_batches(inputs.run.train.rows, 0)

  shapes = {next(batches)["inputs"].shape for _ in range(60)}

  assert len(shapes) == len(inputs.data.lengths)
  for rows, length in shapes:
    assert rows % 8 == 0 and (rows * length <= 512 or rows == 8)
    assert (rows + 8) * length > 512  # Eight more rows would not fit.


def test_every_pair_is_read_once_before_any_is_read_twice(tmp_path):
  run = _run(tmp_path)
  run.train.batch_tokens = 512
  inputs = reader.Reader().read(run, tmp_path / "w")
  once = sum(count / inputs.run.train.rows(int(length)) for length, count in
             inputs.data.facts["splits"]["train"]["rows"].items())
  batches = inputs.data.train_batches(inputs.run.train.rows, 0)

  count = round(once) + len(inputs.data.lengths)
  seen = [next(batches)["inputs"] for _ in range(count)]

  rows = {row.tobytes() for batch in seen for row in batch}
  whole = {row.tobytes() for bucket in inputs.data.inputs("train")
           for row in bucket["inputs"]}
  assert len(rows & whole) > 0.9 * len(whole)


def test_what_is_set_is_kept(tmp_path):
  run = _run(tmp_path)
  run = run.with_values("train", steps=7, eval_every=3)
  run = run.with_values("data", length=24)

  read = reader.Reader().read(run, tmp_path / "w").run

  assert (read.train.steps, read.train.eval_every, read.data.length) == (7, 3, 24)
  assert read.data.buckets == ()


def test_a_run_that_continues_keeps_its_first_choices(tmp_path, monkeypatch):
  run = _run(tmp_path, pairs=False, model_changes={"num_layers": 1, "width": 8})
  run = run.with_values("train", steps=4)
  loop.train(run, tmp_path / "w", stop=2)
  first = codec.read_run(tmp_path / "w")
  monkeypatch.setattr(choices, "_BATCH_TOKENS", {"cpu": 512})

  result = loop.train(run, tmp_path / "w")

  assert result["step"] == 4 and first.train.batch_tokens == 2048
  assert dataclasses.asdict(codec.read_run(tmp_path / "w").train) == (
      dataclasses.asdict(first.train))
