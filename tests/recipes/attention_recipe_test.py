"""Tests for the recipe of an LSTM that attends, and for what its sides begin with."""

import dataclasses
import json

import numpy as np
import pytest

from tests.commands import cli
from transfer_gen import config
from transfer_gen import tree
from transfer_gen.config import file as config_file
from transfer_gen.models import recurrent_encoder
from transfer_gen.run import assemble
from transfer_gen.run import initial
from transfer_gen.run import trained
from transfer_gen.transfer import audit as audit_lib


def _language_model(folder, capsys, name, texts, reverse=False):
  """Trains a small LSTM that writes texts, for one step."""
  (folder / f"{name}.txt").write_text("".join(f"{text}\n" for text in texts))
  (folder / f"{name}.py").write_text(f"""
from transfer_gen.config import Data, Recurrent, Run, Tokenizer, Train
def get_config():
  return Run(model=Recurrent(num_layers=2, embed_width=6, hidden_width=8),
             data=Data(name="files", train="{name}.txt", length=32, reverse={reverse}),
             tokenizer=Tokenizer(kind="characters"),
             train=Train(steps=1, batch_size=8, eval_every=1, checkpoint_every=1))
""")
  cli.run(capsys, "train", f"--config={name}.py", f"--workdir={name}")


def _sentences(folder):
  (folder / "train.a").write_text("".join(f"{i} green apples\n" for i in range(60)))
  (folder / "train.b").write_text("".join(f"{i} gruene Birnen\n" for i in range(60)))
  return ("--config=recipe:attention", "--config.data.train=train.a|train.b",
          "--config.model.embed_width=6", "--config.model.hidden_width=8",
          "--config.tokenizer.kind=characters", "--config.data.length=32")


def test_the_attention_recipe_goes_from_two_files_to_bleu(folder, capsys):
  words = _sentences(folder)

  lines = cli.run(capsys, "train", *words, "--workdir=w", "--config.train.steps=1",
                  "--config.model.num_layers=1", "--config.decoding.beams=1",
                  "--evaluate").splitlines()

  scores = json.loads(lines[-1])
  assert {"bleu", "chrf"} <= scores.keys() and scores["intervals"]["bleu"]


def test_language_models_begin_the_sides_of_the_attention_recipe(folder, capsys):
  words = _sentences(folder)
  _language_model(folder, capsys, "a", (f"{i} green plums" for i in range(60)))
  _language_model(folder, capsys, "b", (f"{i} gruene Pflaumen" for i in range(60)))
  def planned(*more):
    cli.run(capsys, "plan", *words, "--workdir=w", *more)
    data = json.loads((folder / "w" / "audit.json").read_text())
    audit = audit_lib.from_json(data)
    left = {f"{name}:{leaf}" for name, specs in audit.left.items() for leaf in specs}
    return {row.name: row for row in audit.rows}, left, data["coverage"]

  sources = {side: f"--config.sources.{side}.path={name}"
             for side, name in (("encoder", "a"), ("decoder", "b"))}
  rows, left, share = planned(*sources.values())
  one, _, _ = planned("--config.source.path=a")
  _, _, less = planned(sources["decoder"])
  _, fewer, _ = planned(*sources.values(), "--config.model.attention_output=context",
                        "--config.model.input_feeding=false")

  assert rows["encoder/layer_1/cell/recurrent_kernel"].checkpoint == "encoder"
  assert rows["layer_1/cell/input_kernel"].checkpoint == "decoder"
  assert rows["layer_0/cell/input_kernel_feed"].how == "zeros"
  assert rows["encoder/layer_1/cell/input_kernel_backward"].how == "zeros"
  for drawn in ("encoder/layer_0/backward/input_kernel", "attention/key/kernel",
                "layer_0/bridge_h/kernel", "head/kernel"):
    assert rows[drawn].how == "init", drawn
  came = lambda rows: {name for name, row in rows.items() if row.sources}
  assert came(one) == came(rows)
  assert 0 < less < share < 1
  # The heads are read by nothing, unless the output reads the state itself.
  assert left == {f"{side}:head/{leaf}" for side in sources
                  for leaf in ("bias", "kernel")}
  assert fewer == {"encoder:head/bias", "encoder:head/kernel"}


@pytest.mark.parametrize("other", [False, True])
def test_a_language_model_from_right_to_left_begins_what_reads_so(
    folder, capsys, other):
  _sentences(folder)
  texts = [f"{i} green plums" for i in range(60)]
  _language_model(folder, capsys, "a", texts, reverse=True)
  run = config_file.load_run("recipe:attention")
  run.model = dataclasses.replace(run.model, embed_width=6, hidden_width=8)
  run.data.train, run.data.length, run.train.steps = "train.a|train.b", 32, 1
  run.tokenizer = config.Tokenizer(kind="characters")
  run.sources = {"backward": config.Source(path="a")}
  if other:
    _language_model(folder, capsys, "b", texts)
    run.sources["encoder"] = config.Source(path="b")

  made = assemble.build(run, folder / "w")

  came = {row.name: row.checkpoint for row in made.rows if row.sources}
  assert came["encoder/embed/embedding"] == ("encoder" if other else "backward")
  assert any(rule.why == "a language model from right to left"
             for rule in made.plan.rules)
  # Both read the same states: the encoder those of its text from right to left, and
  # the language model those of the text that is turned around.
  alone = trained.open(folder / "a")
  # An encoder has one table, and with both models it is that of the forward one.
  own = alone.params | {"embed/embedding": np.asarray(
      trained.open(folder / ("b" if other else "a")).params["embed/embedding"])}
  text = np.array([made.data.tokenizer.encode("7 green")], np.int32)
  turned = np.array([alone.tokenizer.encode("7 green"[::-1])], np.int32)
  mine, theirs = (recurrent_encoder.Encoder(model).apply(
      {"params": tree.unflatten(params)}, tokens,
      np.full(1, tokens.shape[1], np.int32), False)[1]
      for model, params, tokens in (
          (made.model.config, _below("encoder/", initial.params(made)), text),
          (alone.model.config, own, turned)))
  np.testing.assert_allclose(mine["backward"][::-1], theirs[""], atol=1e-6)


def test_a_backward_model_that_says_nothing_of_its_direction_is_taken_at_its_word(
    folder, capsys):
  words = _sentences(folder)
  _language_model(folder, capsys, "a", (f"{i} green plums" for i in range(60)))
  # A checkpoint that was copied or converted has no data that it belongs to.
  (folder / "a" / "data.json").unlink()

  planned = cli.run(capsys, "plan", *words, "--workdir=w",
                    "--config.sources.backward.path=a")

  assert "taken for a language model from right to left" in planned


def _below(prefix, params):
  return {name.removeprefix(prefix): value for name, value in params.items()
          if name.startswith(prefix)}


@pytest.mark.parametrize("more, message", [
    (("--config.sources.encoder.path=a", "--config.model.hidden_width=4"),
     "sources.encoder has layers"),
    (("--config.sources.backward.path=a", "--config.model.bidirectional=False"),
     "begins what reads from right to left"),
    (("--config.sources.backward.path=a",),
     "sources.backward is a run with data.reverse=False, and what it is to begin reads"
     " from right to left"),
    (("--config.sources.encoder.path=turned",),
     "sources.encoder is a run with data.reverse=True, and what it is to begin reads"
     " from left to right. Give it as sources.backward"),
    (("--config.sources.left.path=a",), "knows the sources sources.encoder, "),
    (("--config.sources.encoder.pth=a",), "has no field 'pth'. Nearest: path")])
def test_a_source_that_begins_no_side_is_refused(folder, capsys, more, message):
  words = _sentences(folder)
  name = "turned" if "turned" in more[0] else "a"
  _language_model(folder, capsys, name, (f"{i} green plums" for i in range(60)),
                  reverse=name == "turned")

  assert message in cli.refused(capsys, "plan", *words, "--workdir=w", *more)
