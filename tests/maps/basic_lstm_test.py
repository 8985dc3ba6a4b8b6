"""Tests for LSTMs of TensorFlow 1, against float64 NumPy and ml5's Brontë model."""

import dataclasses
import gzip
import json

import jax
import numpy as np
import pytest

from tests import paths
from tests.comparing import distance
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.export import convert
from transfer_gen.generate import sampling
from transfer_gen.maps import mapped
from transfer_gen.models import registry
from transfer_gen.run import assemble
from transfer_gen.run import trained
from transfer_gen.study import study
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan

REAL = paths.DATA / "ml5_charrnn"
SHAKESPEARE = paths.DATA / "tinyshakespeare" / "input.txt"
needs_real_files = paths.needs(REAL, SHAKESPEARE)
CELL = "rnnlm/multi_rnn_cell/cell_{}/basic_lstm_cell/"


def write(folder, arrays, vocabulary=None):
  """Writes a folder in the format of ml5: a manifest, and one raw file per tensor."""
  manifest = {name: {"filename": name.replace("/", "_"), "shape": value.shape}
              for name, value in arrays.items()}
  (folder / "manifest.json").write_text(json.dumps(manifest))
  for name, value in arrays.items():
    value.astype("<f4").tofile(folder / manifest[name]["filename"])
  if vocabulary is not None:
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
  return folder


def small(size=7, width=5, units=3):
  rng = np.random.default_rng(0)
  shapes = {
      "Variable": (), "embedding": (size, width),
      CELL.format(0) + "kernel": (width + units, 4 * units),
      CELL.format(0) + "bias": (4 * units,),
      CELL.format(1) + "kernel": (2 * units, 4 * units),
      CELL.format(1) + "bias": (4 * units,),
      "rnnlm/softmax_w": (units, size), "rnnlm/softmax_b": (size,)}
  return {name: rng.normal(size=shape).astype(np.float32)
          for name, shape in shapes.items()}


def logits_of(arrays, tokens, count):
  """Returns logits of BasicLSTMCells in float64, computed one step at a time."""
  p = {name: np.float64(x) for name, x in arrays.items()}
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  states = [(np.zeros(len(p[CELL.format(i) + "bias"]) // 4),) * 2 for i in range(count)]
  out = []
  for token in tokens:
    x = p["embedding"][token]
    for layer in range(count):
      c, h = states[layer]
      sums = np.concatenate([x, h]) @ p[CELL.format(layer) + "kernel"]
      i, j, f, o = np.split(sums + p[CELL.format(layer) + "bias"], 4)
      # BasicLSTMCell adds its forget bias of 1 when it runs; files do not contain it.
      c = c * sigmoid(f + 1.0) + sigmoid(i) * np.tanh(j)
      h = np.tanh(c) * sigmoid(o)
      states[layer], x = (c, h), h
    out.append(x @ p["rnnlm/softmax_w"] + p["rnnlm/softmax_b"])
  return np.array(out)


def load(folder, **kwargs):
  source = sources.open(folder, **kwargs)
  return source, registry.build(source.model), dict(source.read(list(source.specs)))


def test_logits_match_a_float64_reference(tmp_path):
  arrays, tokens = small(), np.array([[3, 1, 6, 0, 0, 5]])

  _, module, params = load(write(tmp_path, arrays))

  got = module.apply({"params": tree.unflatten(params)}, tokens)
  assert distance(got[0], logits_of(arrays, tokens[0], 2)) < 1e-5


def test_a_single_unnumbered_cell_is_read(tmp_path):
  arrays = {name: x for name, x in small().items() if "cell_1" not in name}
  alone = {name.replace("multi_rnn_cell/cell_0/", ""): x for name, x in arrays.items()}

  _, module, params = load(write(tmp_path, alone))

  got = module.apply({"params": tree.unflatten(params)}, np.array([[3, 1, 6]]))
  assert "rnnlm/basic_lstm_cell/kernel" in alone
  assert distance(got[0], logits_of(arrays, [3, 1, 6], 1)) < 1e-5


def test_reading_and_writing_back_keeps_every_bit(tmp_path):
  arrays = small()
  source, _, params = load(write(tmp_path, arrays))

  back = mapped.export(list(source.view.rows.values()), source.view.raw.specs,
                       {name: np.asarray(x) for name, x in params.items()})

  assert back.keys() == arrays.keys() - {"Variable"}
  for name, value in back.items():
    np.testing.assert_array_equal(value, arrays[name])


def test_a_damaged_vocabulary_is_refused_or_repaired_as_configured(tmp_path):
  # "a" occurs a second time, so row 0 is left without a character.
  vocabulary = {character: i for i, character in enumerate("abcdef")} | {"a": 6}
  folder = write(tmp_path, small(), vocabulary)

  with pytest.raises(errors.UserError, match="row 0 has no character"):
    load(folder)
  source, _, _ = load(folder, vocabulary="repair")

  assert source.tokenizer.encode("ab") == [6, 1]
  assert source.notes == ("row 0 has no character",)
  with pytest.raises(errors.UserError, match="source.vocabulary is 'mend'"):
    load(folder, vocabulary="mend")


def test_a_study_runs_with_a_tokenizer_without_special_tokens(tmp_path):
  folder = tmp_path / "theirs"
  folder.mkdir()
  write(folder, small(), {character: i for i, character in enumerate("abcd e\n")})
  (tmp_path / "a.txt").write_text("".join(
      f"{'abcd'[i % 4]}{'ab cde'[i % 5:]}\n" * (i + 1) + "\n" for i in range(40)))
  convert.convert(folder, tmp_path / "ours", "orbax")
  run = config.Run(
      model=config.Recurrent(num_layers=2, embed_width=5, hidden_width=3),
      data=config.Data(name="files", train=str(tmp_path / "a.txt"), unit="paragraph",
                       newline="keep", length=16),
      tokenizer=config.Tokenizer(
          kind="file", path=str(tmp_path / "ours" / "tokenizer")),
      train=config.Train(steps=2, batch_size=8))
  assert trained.open(tmp_path / "ours").run.data.newline == "keep"
  same = plan.TransferPlan(
      rules=(plan.Rule(target="(.*)", source=r"\1"),),
      axes=(plan.On(axis="vocab", map=axes.MatchTokens()),),
      groups=(plan.Group(name="all", params=".*"),))
  moved = dataclasses.replace(
      run, source=config.Source(path=str(folder)), transfer=same)

  facts = study.run(config.Study(
      question="?", runs={"moved": moved, "scratch": run},
      pairs=(("moved", "scratch"),)), tmp_path / "w")

  where = tmp_path / "w" / "moved" / "seed_0" / "lr_0.001"
  data = json.loads((where / "data.json").read_text())
  assert data["tokenizer"]["size"] == 7 and "run on" in data["tokenizer"]["notes"][0]
  assert facts["summary"]["moved_test_loss"] > 0
  [[answer]] = trained.open(where).answers(
      ["ab\n"], config.Decoding(max_tokens=5)).texts
  assert len(answer) == 5


@needs_real_files
@pytest.mark.parametrize("vocabulary", ["refuse", "repair"])
def test_all_shakespeare_characters_but_dollar_are_matched(vocabulary, tmp_path):
  text = str(SHAKESPEARE)
  run = config.Run(
      model=config.Recurrent(num_layers=2, embed_width=128, hidden_width=128),
      data=config.Data(name="files", train=text, unit="paragraph", newline="keep"),
      tokenizer=config.Tokenizer(kind="alphabet", path=text),
      source=config.Source(path=str(REAL / "charlotte_bronte"), vocabulary=vocabulary),
      transfer=plan.TransferPlan(
          rules=(plan.Rule(target="(.*)", source=r"\1"),),
          axes=(plan.On(axis="vocab", map=axes.MatchTokens()),),
          groups=(plan.Group(name="all", params=".*"),)))

  made = assemble.build(run, tmp_path)

  row = next(row for row in made.rows if row.name == "embed/embedding")
  [change] = row.changes
  ours, theirs = made.data.tokenizer, made.sources[""].tokenizer
  assert (row.source_spec.shape, row.spec.shape) == ((108, 128), (65, 128))
  assert [theirs.tokens[i] for i in change.binding.index if i >= 0] == [
      token for token in ours.tokens if token != b"$"]
  assert change.binding.index[ours.encode("$")[0]] == -1


@needs_real_files
def test_the_bronte_model_has_its_known_loss_on_shakespeare():
  source, module, params = load(REAL / "charlotte_bronte")
  text = SHAKESPEARE.read_text().replace("$", "")  # The model has no row for "$".
  text = np.array(source.tokenizer.encode(text), np.int32)
  starts = np.linspace(0, len(text) - 601, 64).astype(int)
  windows = text[starts[:, None] + np.arange(601)]

  logits = jax.jit(module.apply)({"params": tree.unflatten(params)}, windows[:, :-1])

  # The first 50 characters of a window only warm up the state, which starts at zero.
  chances = jax.nn.log_softmax(logits)[:, 50:599]
  nll = -np.take_along_axis(np.asarray(chances), windows[:, 51:600, None], -1).mean()
  assert abs(nll - 2.17) < 0.005


@needs_real_files
def test_the_bronte_model_matches_its_reference_logits_and_text():
  source, module, params = load(REAL / "charlotte_bronte")
  wanted = json.loads((REAL / "reference.json").read_text())["charlotte_bronte"]
  prompt = source.tokenizer.encode("The ")

  logits = module.apply({"params": tree.unflatten(params)}, np.array([prompt]))[0, -1]
  [new] = sampling.generate(
      module, params, [prompt], decoding=config.Decoding(max_tokens=120))

  assert sum(x.size for x in params.values()) == wanted["params"]
  first = np.array(wanted["logits_after_The_"])
  assert np.abs(np.float64(logits[:16]) - first).max() / np.abs(logits).max() < 1e-5
  assert source.tokenizer.decode([int(logits.argmax())]) == wanted["argmax_after_The_"]
  assert source.tokenizer.decode(new) == wanted["greedy_after_The_"]


@needs_real_files
def test_the_bronte_model_matches_its_reference_loss_on_its_text():
  source, module, params = load(REAL / "charlotte_bronte")
  wanted = json.loads((REAL / "reference.json").read_text())["charlotte_bronte"]
  text = gzip.decompress((REAL / "bronte.txt.gz").read_bytes()).decode("utf-8")
  # Encoding refuses unknown characters, so it also shows that all of them are known.
  text = np.array(source.tokenizer.encode(text), np.int32)
  starts = np.linspace(0, len(text) - 601, 64).astype(int)
  windows = text[starts[:, None] + np.arange(601)]

  logits = jax.jit(module.apply)({"params": tree.unflatten(params)}, windows[:, :-1])

  # The reference was computed on the same windows, without their first characters.
  chances = jax.nn.log_softmax(logits)[:, 50:599]
  targets = windows[:, 51:600]
  nll = -np.take_along_axis(np.asarray(chances), targets[..., None], -1).mean()
  assert abs(nll - wanted["nll_on"]["charlotte_bronte"]["nll"]) < 1e-5
