"""Tests for word vectors as the source of an embedding table."""

import jax
import numpy as np
import pytest

from transfer_gen import __main__ as main
from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen.run import assemble
from transfer_gen.transfer import axes as axes_lib
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import restore

CONFIG = '''
from transfer_gen import config
from transfer_gen.transfer import axes, plan

def get_config():
  return config.Run(
      model=config.Recurrent(embed_width=3, hidden_width=4, num_layers=1),
      data=config.Data(name="files", train="text.txt", length=16),
      tokenizer=config.Tokenizer(kind="characters"),
      source=config.Source(path="x.vec"),
      transfer=plan.TransferPlan(
          rules=(plan.Rule(target="embed/embedding", source="embed/embedding"),
                 plan.Rule(target=".*", source=None)),
          axes=(plan.On(axis="vocab", map=axes.MatchTokens(fresh="mean")),),
          groups=(plan.Group(name="all", params=".*"),)))
'''
WORDS = ("t", "h", "e", "zz", "t")
VALUES = np.arange(15, dtype=np.float32).reshape(5, 3) / 7


def _write(folder):
  """Writes the same vectors in each supported format."""
  lines = [f"{word} {' '.join(map(repr, map(float, vector)))}"
           for word, vector in zip(WORDS, VALUES)]
  (folder / "x.vec").write_text("\n".join(["5 3", *lines]) + "\n")
  (folder / "glove.txt").write_text("\n".join(lines) + "\n")
  np.save(folder / "y.npy", VALUES)
  (folder / "y.txt").write_text("\n".join(WORDS) + "\n")
  (folder / "text.txt").write_text(
      "".join(f"the tea {'hx' * (i % 5)}{i}\n" for i in range(100)))


@pytest.mark.parametrize("name", ["x.vec", "glove.txt", "y.npy"])
def test_every_vector_file_format_gives_the_same_table(name, tmp_path):
  _write(tmp_path)

  source = sources.open(tmp_path / name)

  (leaf, spec), = source.specs.items()
  assert (leaf, spec.shape, spec.axes) == (
      "embed/embedding", (5, 3), ("vocab", "embed"))
  np.testing.assert_array_equal(dict(source.read([leaf]))[leaf], VALUES)
  rows = source.vocabulary.rows
  # A word is found with and without a space; the first of two equal words counts.
  assert [rows.get(token, -1) for token in (b"h", b" h", b"t", b"zz", b"z", b"")] == [
      1, 1, 0, 3, -1, -1]


def test_matched_rows_are_copied_and_others_are_the_mean(tmp_path, monkeypatch):
  _write(tmp_path)
  monkeypatch.chdir(tmp_path)
  namespace = {}
  exec(CONFIG, namespace)

  setup = assemble.build(namespace["get_config"](), tmp_path / "run")
  ones = lambda names: {
      name: jax.numpy.ones(setup.specs[name].shape) for name in names}
  params = restore.restore(setup.rows, setup.sources, ones, {
      name: jax.sharding.SingleDeviceSharding(jax.devices()[0])
      for name in setup.specs}, jax.random.key(0))

  table = np.asarray(params["embed/embedding"])
  tokens = setup.data.tokenizer.tokens
  for row, token in enumerate(tokens):
    wanted = (VALUES[WORDS.index(token.decode())] if token in (b"t", b"h", b"e")
              else VALUES.mean(0))
    np.testing.assert_allclose(table[row], wanted, rtol=1e-6)
  assert (np.asarray(params["head/kernel"]) == 1).all()


def test_the_plan_command_audits_word_vectors(tmp_path, monkeypatch, capsys):
  _write(tmp_path)
  (tmp_path / "config.py").write_text(CONFIG)
  monkeypatch.chdir(tmp_path)

  main.run(["transfer-gen", "plan", "--config=config.py", "--workdir=run"])

  printed = capsys.readouterr().out
  assert "embed/embedding" in printed and "matched" in printed


def test_vectors_of_another_width_are_refused(tmp_path, monkeypatch, capsys):
  _write(tmp_path)
  (tmp_path / "config.py").write_text(CONFIG)
  monkeypatch.chdir(tmp_path)

  with pytest.raises(SystemExit) as exit_:
    main.run(["transfer-gen", "plan", "--config=config.py", "--workdir=run",
              "--config.model.embed_width=4"])

  assert exit_.value.code == 2
  assert "axis `embed` is 3 in the source and 4 here" in capsys.readouterr().err


@pytest.mark.parametrize("name, content, message", [
    ("a.vec", b"", "a.vec: the first line must say"),
    ("a.vec", b"3 2\na 1 2\n", "says 3 words, and 1 follow"),
    ("a.vec", b"1 2\na 1 two\n", "line 2: .* no word with 2 numbers"),
    ("a.vec", b"1 2\na 1 inf\n", "not finite"),
    ("a.txt", b"word\n", "no word with numbers"),
    ("a.txt", b"a 1 2\nb 1\n", "line 2: .* no word with 2 numbers"),
    ("a.npy", b"\x93NUMPY", "a.npy"),
], ids=range(7))
def test_a_malformed_vector_file_is_refused(name, content, message, tmp_path):
  (tmp_path / name).write_bytes(content)
  if name.endswith("npy"):
    (tmp_path / "a.json").write_text("[]")

  with pytest.raises(errors.UserError, match=message):
    source = sources.open(tmp_path / name)
    list(source.read(["embed/embedding"]))


def test_an_array_without_its_words_is_refused_with_advice(tmp_path):
  np.save(tmp_path / "a.npy", VALUES)

  with pytest.raises(errors.UserError, match="a.txt .* or a.json"):
    sources.open(tmp_path / "a.npy")


def test_a_map_for_word_vectors_is_refused(tmp_path):
  _write(tmp_path)
  run = config_lib.Run(
      data=config_lib.Data(name="files", train=str(tmp_path / "text.txt")),
      source=config_lib.Source(path=str(tmp_path / "x.vec"), map="gpt2"),
      transfer=plan_lib.TransferPlan(
          rules=(plan_lib.Rule(target=".*", source=None),),
          axes=(plan_lib.On(axis="vocab", map=axes_lib.MatchTokens()),),
          groups=(plan_lib.Group(name="all", params=".*"),)))

  with pytest.raises(errors.UserError, match="word vectors need no map"):
    assemble.build(run, tmp_path / "run")
