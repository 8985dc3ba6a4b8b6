"""Tests for the config files that come with the package."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
import transformers

from tests import fastai_models
from tests import small_runs
from tests.commands import cli
from tests.data import drawings
from tests.study import events_test
from transfer_gen import config
from transfer_gen.config import codec
from transfer_gen.config import file as config_file
from transfer_gen.run import assemble
from transfer_gen.run import initial
from transfer_gen.study import from_run
from transfer_gen.train import objectives

FIELDS = {"translate": ("input", "target"), "summarize": ("document", "summary"),
          "instruct": ("prompt", "answer")}  # What trains from pairs without a source.
SHORT = ("--config.train.steps=2", "--config.model.width=8",
         "--config.model.num_heads=2", "--config.model.num_layers=1",
         "--config.tokenizer.kind=bytes", "--config.data.length=32")


@pytest.mark.parametrize("name", config_file.recipes())
def test_a_recipe_is_a_config_that_a_copy_equals(tmp_path, capsys, name):
  copy = tmp_path / "copy.py"

  cli.run(capsys, "recipes", name, f"--copy={copy}")

  ours, theirs = map(config_file.load_run, (f"recipe:{name}", str(copy)))
  for run in (ours, theirs):  # Functions of two files are two objects.
    run.transfer = None
  assert ours == theirs and ours.source is None


def test_the_list_has_one_line_for_each_recipe(capsys):
  printed = cli.run(capsys, "recipes").split("\n\n")[0].splitlines()

  assert [line.split()[0] for line in printed] == sorted(config_file.recipes())
  assert max(map(len, printed)) <= 100 and len(printed) == 13


def test_a_recipe_shows_its_fields_and_what_is_chosen(capsys):
  printed = cli.run(capsys, "recipes", "translate")

  assert "data.input_field='input'" in printed
  assert "train.steps=0  (chosen from data and devices)" in printed
  assert "optim.lr=0  (chosen from data and devices)" in printed


@pytest.mark.parametrize("words, message", [
    (["recipes", "translat"], "Nearest: translate"),
    (["recipes", "--copy=x.py"], "needs a name"),
    (["recipes", "grow", "distill"], "'distill' is not a flag"),
    (["plan", "--config=recipe:summarise", "--workdir=w"], "Nearest: summarize"),
    (["plan", "--config=recipe:grow", "--workdir=w", "--config.data.train=text.txt"],
     "needs a model and sizes"),
    (["plan", "--config=recipe:distill", "--workdir=w", "--config.data.train=text.txt"],
     "needs a teacher"),
    (["plan", "--config=recipe:new_vocabulary", "--workdir=w",
      "--config.data.train=text.txt"], "needs a model to start from"),
    (["plan", "--config=recipe:ulmfit", "--workdir=w", "--config.data.train=text.txt"],
     "has no source to learn from"),
    (["study", "--config=recipe:translate", "--workdir=w"], "nothing to compare"),
])
def test_a_mistake_is_answered_in_one_message(folder, capsys, words, message):
  assert message in cli.refused(capsys, *words)


def test_an_existing_file_is_not_overwritten(folder, capsys):
  assert "exists already" in cli.refused(
      capsys, "recipes", "grow", "--copy=text.txt")


@pytest.mark.parametrize("name", FIELDS)
def test_a_recipe_of_pairs_trains_from_two_columns_alone(folder, capsys, name):
  a, b = FIELDS[name]
  rows = [{a: f"{i} apples", b: f"apples {i}"} for i in range(60)]
  (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

  words = (f"--config=recipe:{name}", "--config.data.train=pairs.jsonl",
           "--workdir=w", *SHORT)
  printed = cli.run(capsys, "plan", *words)

  assert "model=config.EncoderDecoder(" in printed
  if name == "translate":
    lines = cli.run(capsys, "train", *words, "--evaluate").splitlines()
    scores = json.loads(lines[-1])
    assert {"bleu", "chrf"} <= scores.keys() and scores["intervals"]["bleu"]
    assert json.loads(next(line for line in lines if line.startswith("{")))["step"] == 2


@pytest.mark.parametrize("name, words, message", [
    ("language_model", (), "100.0% of the target's params come from a source"),
    ("new_vocabulary", (), "mixed"),
    ("grow", ("--config.model.num_layers=2",), "starts as the identity"),
])
def test_a_recipe_takes_a_source_and_needs_no_python(
    folder, capsys, name, words, message):
  cli.train_source(folder, capsys)

  printed = cli.run(
      capsys, "plan", f"--config=recipe:{name}", "--config.data.train=text.txt",
      "--config.source.path=first", "--workdir=w", *words)

  assert message in printed


@pytest.fixture(name="general")
def _general(folder):
  """Writes a small model of fastai with its vocabulary, and a target text."""
  torch = pytest.importorskip("torch")
  net = fastai_models.network(torch, len(fastai_models.ITOS), (4, 6, 4))
  table = fastai_models.save(
      torch, net, folder / "lm.pth", "learn", fastai_models.ITOS)["0.encoder.weight"]
  # "zebras" is new, and the numbers are too rare for rows.
  (folder / "text.txt").write_text("".join(
      f"The cat {('sat', 'and the zebras')[i % 2]} on a mat {i + 1000}\n"
      for i in range(60)))
  return table


def test_ulmfit_matches_words_and_starts_new_ones_as_the_mean(folder, general):
  run = config_file.load_run("recipe:ulmfit")
  run.source, run.data.train = config.Source(path="lm.pth"), "text.txt"
  run.train.steps, run.data.length = 20, 16

  made = assemble.build(run, folder / "w")

  tokens = [token.decode().strip() for token in made.data.tokenizer.tokens]
  table = np.asarray(initial.params(made)["embed/embedding"])
  mean = np.float64(general).mean(0)
  for word in ("the", "cat", "sat", "on", "a", "mat", "and"):
    np.testing.assert_array_equal(
        table[tokens.index(word)], general[fastai_models.ITOS.index(word)])
  np.testing.assert_allclose(table[tokens.index("zebras")], mean, rtol=1e-5)
  special = made.data.tokenizer.special
  for word in ("xxunk", "xxbos", "xxeos", "xxmaj"):
    np.testing.assert_array_equal(
        table[special[word]], general[fastai_models.ITOS.index(word)])
  assert made.run.model.weight_dropout == 0.5 and made.run.model.tied


@pytest.mark.long
def test_a_denoiser_is_a_source_for_summaries(folder, capsys):
  small = [word for word in SHORT if "bytes" not in word]
  printed = cli.run(capsys, "train", "--config=recipe:denoise", "--workdir=first",
                    "--config.data.train=text.txt", *small)

  assert "model=config.EncoderDecoder(" in printed
  assert "tokenizer.sentinels=32" in printed
  (folder / "pairs.jsonl").write_text("".join(json.dumps(
      {"document": f"{i} apples", "summary": f"apples {i}"}) + "\n" for i in range(60)))
  planned = cli.run(
      capsys, "plan", "--config=recipe:summarize", "--config.data.train=pairs.jsonl",
      "--config.source.path=first", "--workdir=w")
  assert "100.0% of the target's params come from a source" in planned
  refused = cli.refused(
      capsys, "plan", "--config=recipe:denoise", "--config.data.train=text.txt",
      "--config.source.path=first", "--workdir=v", "--config.tokenizer.sentinels=3")
  assert "keeps the tokens that it has" in refused


def _bert(folder):
  """Saves a BERT with a vocabulary of letters."""
  transformers.BertForMaskedLM(transformers.BertConfig(
      vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
      intermediate_size=8, max_position_embeddings=32)).save_pretrained(folder)
  (folder / "vocab.txt").write_text("\n".join(
      ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"aples0123456789",
       *(f"##{c}" for c in "aples0123456789")]))


def _pairs(folder):
  (folder / "pairs.jsonl").write_text("".join(
      json.dumps({"input": f"{i} apples", "target": f"apples {i}"}) + "\n"
      for i in range(60)))


@pytest.mark.parametrize("shared", [False, True])
def test_a_warm_start_draws_the_cross_attention_alone(folder, capsys, shared):
  _bert(folder / "bert")
  _pairs(folder)

  words = ("plan", "--config=recipe:warm_start", "--config.data.train=pairs.jsonl")
  cli.run(capsys, *words, "--config.source.path=bert|bert", "--workdir=w",
          f"--config.model.shared={shared}")

  totals = json.loads((folder / "w" / "audit.json").read_text())["totals"]
  # Four kernels of 8 x 8 with their biases, and a norm.
  assert totals["fresh"]["params"] == 4 * (64 + 8) + 16
  # All of one side: its tables, their norm, and its block.
  side = (40 + 32 + 2 + 2) * 8 + 4 * (64 + 8) + 2 * 64 + 16 + 2 * 16
  assert totals["left_behind"]["params"] == (side if shared else 0)
  assert "--config.source.path='ENCODER|DECODER'" in cli.refused(
      capsys, *words, "--config.source.path=bert", "--workdir=v")


@pytest.mark.parametrize("path, lacking", [("bert|", "decoder"), ("|bert", "encoder")])
def test_a_warm_start_from_one_side_draws_the_other(folder, capsys, path, lacking):
  _bert(folder / "bert")
  _pairs(folder)
  words = ("plan", "--config=recipe:warm_start", "--config.data.train=pairs.jsonl",
           f"--config.source.path={path}", "--workdir=w")

  shown = cli.run(capsys, *words)

  totals = json.loads((folder / "w" / "audit.json").read_text())["totals"]
  # The cross-attention, and a side without its table of 40 tokens.
  drawn = 4 * (64 + 8) + 16 + (
      (32 + 2 + 2) * 8 + 4 * (64 + 8) + 2 * 64 + 16 + 2 * 16)
  if lacking == "decoder":  # The output is of that side.
    drawn += 64 + 8 + 2 * 8 + 40
  assert totals["fresh"]["params"] == drawn and not totals["left_behind"]["params"]
  share = 100 * (1 - drawn / totals["target"]["params"])
  assert f"{share:.1f}% of the target's params come from a source." in shown
  assert f"the source has no {lacking}" in shown
  assert f"model.shared is True, and the source has no {lacking}" in cli.refused(
      capsys, *words, "--config.model.shared=True")


def test_a_warm_start_takes_other_tokens_if_both_sides_say_which(folder, capsys):
  _bert(folder / "bert")
  _pairs(folder)
  words = ("plan", "--config=recipe:warm_start", "--config.data.train=pairs.jsonl",
           "--config.source.path=bert|bert", "--config.tokenizer.kind=characters")

  refused = cli.refused(capsys, *words, "--workdir=v")
  cli.run(capsys, *words, "--config.encoder_tokenizer.kind=characters", "--workdir=w")

  assert "Set encoder_tokenizer.kind as well" in refused
  rows = {row["name"]: row for row in json.loads(
      (folder / "w" / "audit.json").read_text())["rows"]}
  for table in ("embed/embedding", "encoder/embed/embedding"):
    row = rows[table]
    assert row["sources"] == [table] and row["how"] == "mapped"
    assert row["source_spec"]["shape"] == [40, 8] and row["spec"]["shape"][0] < 40
  assert not (folder / "v").exists()


def test_every_leaf_of_a_warm_started_pair_learns(folder):
  _bert(folder / "bert")
  _pairs(folder)
  run = config_file.load_run("recipe:warm_start")
  run.source, run.data.train = config.Source(path="bert|bert"), "pairs.jsonl"
  run.data.length, run.train.steps = 16, 2

  made = assemble.build(run, folder / "w")
  params, batch = initial.params(made), next(made.data.train_batches(8, 0))
  @jax.jit
  def stepped(params):
    loss_fn = lambda params: (batch["weights"] * objectives.next_token(
        made.model, False)(params, batch, None)).sum() / batch["weights"].sum()
    loss, grads = jax.value_and_grad(loss_fn)(params)
    return loss, grads, jax.tree.map(lambda x, g: x - 0.05 * g, params, grads)
  loss, grads, params = stepped(params)

  assert stepped(params)[0] < loss
  # A softmax does not see a bias by which all keys are shifted.
  assert {name for name, grad in grads.items() if not np.asarray(grad).any()} <= {
      name for name in params if name.endswith("attn/key/bias")}
  assert any("cross_attn" in name for name in grads)


@pytest.mark.long
def test_a_warm_started_pair_learns_and_writes(folder, capsys):
  _bert(folder / "bert")
  _pairs(folder)
  cli.train_source(folder, capsys)

  lines = cli.run(
      capsys, "train", "--config=recipe:warm_start",
      "--config.source.path=bert|first", "--config.data.train=pairs.jsonl",
      "--config.data.length=16", "--workdir=w", "--config.train.steps=2",
      "--evaluate").splitlines()

  assert {"bleu", "chrf"} <= json.loads(lines[-1]).keys()


def test_an_encoder_alone_learns_no_texts(folder, capsys):
  _bert(folder / "bert")

  refused = cli.refused(
      capsys, "train", "--config=recipe:language_model", "--config.source.path=bert",
      "--config.data.train=text.txt", "--workdir=v")

  assert "model is an Encoder" in refused and "recipe:warm_start" in refused
  assert not (folder / "v").exists()


@pytest.mark.long
def test_a_study_of_a_recipe_compares_it_with_the_same_run_from_scratch(folder, capsys):
  cli.train_source(folder, capsys)
  (folder / "text.txt").write_text("".join(
      f"the {i}th thing has {i} lines\n" for i in range(120)))

  printed = cli.run(
      capsys, "study", "--config=recipe:language_model", "--workdir=w", "--seeds=2",
      "--config.data.length=32", "--config.train.batch_size=8",
      "--config.data.train=text.txt", "--config.source.path=first",
      "--config.train.steps=2")

  summary = json.loads(printed.splitlines()[-1])
  assert summary["seeds"] == 2
  assert {"transfer_test_loss", "scratch_test_loss"} < summary.keys()
  facts = [json.loads((folder / "w" / name / "seed_0" / "lr_chosen" / "audit.json"
                       ).read_text())["coverage"] for name in ("transfer", "scratch")]
  assert facts == [1.0, 0.0]
  # A control learns at the rate of a new model.
  assert summary["lrs"]["scratch"] == pytest.approx(
      3 * summary["lrs"]["transfer"], rel=0.05)


ULMFIT = ("--config=recipe:ulmfit", "--config.source.path=lm.pth",
          "--config.data.train=text.txt", "--config.data.length=16", "--workdir=w",
          "--config.train.batch_size=8", "--config.train.steps=20")


def test_ulmfit_learns_from_the_top_at_slanted_rates(folder, capsys, general):
  del general  # The files are what counts.

  printed = cli.run(capsys, "plan", *ULMFIT)

  plan = json.loads((folder / "w" / "plan.json").read_text())
  assert [(g["name"], g.get("unfreeze_step", 0), round(1 / g.get("lr_mult", 1), 3))
          for g in plan["groups"]] == [
              ("head", 0, 1.0), ("layer_1", 2, 2.6), ("layer_0", 4, 6.76)]
  audit = json.loads((folder / "w" / "audit.json").read_text())
  # All but the row of the one new word and its bias, of 17 words.
  layers = [4 * units * (below + units + 2) for below, units in ((4, 6), (6, 4))]
  assert audit["coverage"] == pytest.approx(1 - 5 / (17 * 5 + sum(layers)))
  assert "optim.warmup_steps=2" in printed and "16 of 17 matched" in printed


def test_ulmfit_unfreezes_from_the_top_at_the_rates_of_its_paper(
    folder, capsys, general):
  del general
  groups, steps, every = ("head", "layer_1", "layer_0"), 30, 10

  cli.train(capsys, *ULMFIT[:-1], f"--config.train.steps={steps}",
            f"--config.strategy.every={every}", "--config.train.log_every=1",
            "--config.train.eval_every=10", "--config.train.checkpoint_every=10",
            "--config.train.keep=3")

  # Howard and Ruder (2018), section 3.3: one group more from the top, step by step.
  run = dataclasses.replace(codec.read_run(folder / "w"), model_changes={})
  params = [initial.params(assemble.build(run, folder / "none")), *(
      small_runs.params(folder / "w", step) for step in (10, 20, 30))]
  of_group = {name: {leaf for leaf in params[0] if leaf.startswith(f"{name}/")}
              for name in groups[1:]}
  of_group["head"] = params[0].keys() - of_group["layer_0"] - of_group["layer_1"]
  for number, (old, new) in enumerate(itertools.pairwise(params), 1):
    assert {name for name, x in new.items() if not np.array_equal(x, old[name])} == (
        set().union(*(of_group[name] for name in groups[:number])))
  state = small_runs.optimizer_state(folder / "w", steps)
  counts = {key[0]: int(x) for key, x in state.items()
            if isinstance(key, tuple) and key[-1] == "count"}
  assert counts == dict(zip(groups, (30, 20, 10), strict=True))
  # Equation 3, over what is left of the run, and section 3.2: layers below are slower.
  [files] = events_test.runs(folder / "w").values()
  logged = events_test.values_of(files)
  for number, name in enumerate(groups):
    start, peak = number * every, 4e-3 / 2.6**number
    assert logged[f"learning_rate/{name}"] == [
        (start + t + 1, pytest.approx(_slanted(t, steps - start, peak), rel=1e-5))
        for t in range(steps - start)]
  losses = [line["loss"] for line in small_runs.metrics(folder / "w")
            if line["split"] == "validation"]
  assert losses[0] > losses[1] > losses[2]


def _slanted(t, total, peak, cut_frac=0.1, ratio=32):
  """The learning rate of iteration t of `total`, in the symbols of the paper."""
  cut = int(total * cut_frac)
  p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
  return peak * (1 + p * (ratio - 1)) / ratio


@pytest.mark.long
def test_the_strokes_recipe_learns_to_draw_and_then_starts_from_what_it_learned(
    folder, capsys):
  drawings.save(folder / "a.npz", train=drawings.zigzags(40, 1),
                valid=drawings.zigzags(8, 2), test=drawings.zigzags(8, 3))
  small = ("--config.model.hidden_width=8", "--config.model.encoder_width=6",
           "--config.model.latent_width=4", "--config.model.mixtures=2",
           "--config.data.length=16", "--config.train.steps=2",
           "--config.train.batch_size=8")
  words = ("--config=recipe:strokes", "--config.data.train=a.npz", *small)

  cli.run(capsys, "train", *words, "--workdir=first")
  cli.run(capsys, "train", *words, "--workdir=second", "--config.source.path=first",
          "--config.tokenizer.kind=source", "--evaluate")

  totals = json.loads((folder / "second" / "audit.json").read_text())["totals"]
  assert totals["copied"]["leaves"] > 0 == totals["fresh"]["leaves"]
  scores = json.loads((folder / "second" / "scores_test.json").read_text())
  assert all(np.isfinite(scores[name]) for name in ("loss", "bivariate", "kl"))


def test_scratch_has_the_model_and_the_tokens_of_its_pair():
  run = config_file.load_run("recipe:language_model")
  run.source = config.Source(path="there")

  study = from_run.study(run)

  transfer, scratch = study.runs["transfer"], study.runs["scratch"]
  assert scratch.transfer.rules[0].source is None
  assert (scratch.model, scratch.tokenizer, scratch.data, scratch.optim) == (
      transfer.model, transfer.tokenizer, transfer.data, transfer.optim)
