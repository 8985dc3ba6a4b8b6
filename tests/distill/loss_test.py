"""Tests for distillation from teachers of another family, size or vocabulary."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small_runs
from tests.comparing import assert_same_bits
from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen.distill import loss
from transfer_gen.distill import matching
from transfer_gen.distill import teacher as teacher_lib
from transfer_gen.models import registry
from transfer_gen.run import answers
from transfer_gen.run import assemble
from transfer_gen.run import feed as feed_lib
from transfer_gen.run import loop
from transfer_gen.run import trained as trained_lib
from transfer_gen.study import jobs
from transfer_gen.transfer import plan as plan_lib

DECODER = config_lib.Decoder(
    num_layers=2, width=16, num_heads=2, max_length=32, tied=False)
LSTM = config_lib.Recurrent(embed_width=0, hidden_width=12, num_layers=1)


def _chain(folder):
  """Writes texts of a Markov chain: many for the teacher, few for the student."""
  generator = np.random.default_rng(0)
  chances = generator.dirichlet(np.full(8, 0.4), size=8)
  for name, count in (("many", 400), ("few", 8), ("val", 60), ("test", 4)):
    lines = []
    for _ in range(count):
      states = [generator.integers(8)]
      for _ in range(19):
        states.append(generator.choice(8, p=chances[states[-1]]))
      lines.append("".join("abcdefgh"[i] for i in states))
    (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


def _run(folder, model, steps=60, train="few", lr=2e-2, **fields):
  path = lambda name: str(folder / f"{name}.txt")
  run = config_lib.Run(
      model=model,
      data=config_lib.Data(name="files", train=path(train), validation=path("val"),
                           test=path("test"), length=21),
      tokenizer=config_lib.Tokenizer(kind="characters"),
      optim=config_lib.Optim(lr=lr, warmup_steps=5),
      train=config_lib.Train(steps=steps, batch_size=8, log_every=steps,
                             eval_every=30, checkpoint_every=steps))
  return dataclasses.replace(run, **fields)


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  """Makes a folder with the texts and a trained Transformer in `teacher`."""
  folder = tmp_path_factory.mktemp("distill")
  _chain(folder)
  loop.train(_run(folder, DECODER, 60, "many"), folder / "teacher")
  return folder


def _distill(folder, **fields):
  return config_lib.Distill(
      teacher=config_lib.Source(path=str(folder / "teacher")), **fields)


def test_a_distilled_lstm_beats_one_trained_on_the_data_only(folder):
  before = small_runs.params(folder / "teacher")
  hard = loop.train(_run(folder, LSTM), folder / "hard")
  soft = loop.train(
      _run(folder, LSTM, distill=_distill(folder, hidden=0.1)), folder / "soft")

  assert soft["best_validation_loss"] < hard["best_validation_loss"] - 0.1
  line = next(line for line in small_runs.metrics(folder / "soft")
              if line["split"] == "train")
  assert line["loss"] == pytest.approx(
      0.3 * line["ce"] + 0.7 * line["logits"] + 0.1 * line["hidden"], rel=1e-5)
  assert_same_bits(small_runs.params(folder / "teacher"), before)


def test_projections_learn_and_are_dropped_from_the_opened_model(folder):
  run = _run(folder, LSTM, distill=_distill(folder, hidden=0.1))
  if not (folder / "soft").exists():
    loop.train(run, folder / "soft")
  setup = assemble.build(run, folder / "soft")
  name, = [leaf for leaf in setup.specs if leaf.startswith("distill/")]
  rows = {row.name: row for row in setup.rows}

  assert (name, setup.specs[name].shape) == ("distill/layer_0/kernel", (12, 16))
  assert rows[name].group == "all" and rows[name].learning == 12 * 16
  opened = trained_lib.open(folder / "soft")
  assert opened.params.keys() == setup.specs.keys() - {name}
  assert len(opened.answers(["abc"]).texts) == 1
  # Nor do projections appear when the run is the source of another run.
  assert name not in sources.open(folder / "soft", 60).specs
  kept = list((folder / "soft" / "checkpoints" / "60" / "params").iterdir())
  assert kept


@pytest.mark.parametrize("name", ["distill", "feature_extraction"])
def test_strategies_add_rules_for_the_projections(name, folder):
  if not (folder / "hard").exists():
    loop.train(_run(folder, LSTM), folder / "hard")
  setup = assemble.build(_run(
      folder, LSTM, distill=_distill(folder, hidden=0.1),
      source=config_lib.Source(path=str(folder / "hard")),
      strategy=config_lib.Strategy(name=name)), folder / "named")

  row, = [row for row in setup.rows if row.name.startswith("distill/")]
  assert (row.sources, row.learning) == ((), 12 * 16)


@pytest.mark.long
def test_an_interrupted_distillation_resumes_bit_for_bit(folder):
  run = _run(folder, LSTM, distill=_distill(folder, hidden=0.1))
  if not (folder / "soft").exists():
    loop.train(run, folder / "soft")
  loop.train(run, folder / "killed", stop=30)
  loop.train(run, folder / "killed")

  assert_same_bits(*(
      small_runs.params(folder / name) for name in ("killed", "soft")))


def _terms(folder, model, key=0, vocabulary=None, **fields):
  """Returns setup, batch, params and the loss terms of the batch."""
  run = _run(folder, model, distill=_distill(folder, **fields))
  if vocabulary:
    run.tokenizer = vocabulary
  setup = assemble.build(run, folder / "none")
  specs = setup.specs
  keys = jax.random.split(jax.random.key(key), len(specs))
  params = {name: 0.3 * jax.random.normal(param_key, specs[name].shape)
            for param_key, name in zip(keys, specs)}
  put = lambda batch: jax.tree.map(jnp.asarray, batch)
  feed = feed_lib.prepare(setup, params, None, put, folder / "none")
  batch = feed.put(next(feed.batches))
  objective = loss.objective(setup.teacher, setup.model, False)
  return setup, batch, params, jax.jit(objective)(params, batch, None)


def _softmax(logits):
  """Returns the softmax over the last axis in float64."""
  powers = np.exp(np.float64(logits) - np.float64(logits).max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


def _apply(module, params, inputs):
  from transfer_gen import tree
  return np.asarray(jax.jit(module.apply)({"params": tree.unflatten(params)}, inputs))


def test_the_logits_loss_is_a_kl_divergence_at_a_temperature(folder):
  setup, batch, params, terms = _terms(folder, LSTM, temperature=3.0)
  teacher = trained_lib.open(folder / "teacher")

  p = _softmax(_apply(teacher.model, teacher.params, batch["inputs"]) / 3.0)
  q = _softmax(_apply(setup.model, params, batch["inputs"]) / 3.0)
  # Hinton et al. (2015) scale by temperature ** 2, so that gradients keep their size.
  np.testing.assert_allclose(
      terms["logits"], 9 * (p * np.log(p / q)).sum(-1), rtol=1e-4, atol=1e-5)
  chances = _softmax(_apply(setup.model, params, batch["inputs"]))
  nll = -np.log(np.take_along_axis(
      chances, np.asarray(batch["targets"])[..., None], -1)[..., 0])
  np.testing.assert_allclose(terms["ce"], nll, rtol=1e-4)


@pytest.mark.parametrize("kind", [
    "mse", pytest.param("cosine", marks=pytest.mark.long)])
def test_hidden_states_are_compared_through_the_projection(kind, folder):
  setup, batch, params, terms = _terms(
      folder, LSTM, hidden=1.0, hidden_loss=kind, layers=((0, 1),))
  theirs = np.float64(batch["teacher_hidden_0"])
  cut = {**params, "head/kernel": np.eye(12, setup.run.model.vocab_size),
         "head/bias": np.zeros(setup.run.model.vocab_size)}

  # With an identity as the head, the first 12 logits are the hidden state itself.
  own = _apply(setup.model, cut, batch["inputs"])[..., :12]
  own = np.float64(own) @ np.float64(params["distill/layer_0/kernel"])
  wanted = np.square(own - theirs).mean(-1) if kind == "mse" else 1 - (
      own * theirs).sum(-1) / np.linalg.norm(own, axis=-1) / np.linalg.norm(
          theirs, axis=-1)
  np.testing.assert_allclose(terms["hidden"], wanted, rtol=1e-4, atol=1e-5)
  assert theirs.shape == (8, 21, 16) and np.ptp(theirs) > 0.1


def test_relations_are_softmaxes_over_earlier_positions():
  vectors = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype(np.float32)

  found = np.asarray(matching.relations(vectors, 2))

  # The 4 heads of width 3 are regrouped into 2 of width 6.
  heads = np.float64(vectors).reshape(2, 5, 2, 6)
  for head in range(2):
    for now in range(5):
      scores = heads[0, now, head] @ heads[0, :now + 1, head].T / 6 ** 0.5
      np.testing.assert_allclose(
          found[0, head, now, :now + 1], np.log(_softmax(scores)),
          rtol=1e-4, atol=1e-5)
      assert (found[0, head, now, now + 1:] < -1e8).all()  # Later ones are masked.


def test_relations_of_packed_documents_are_those_of_each_alone():
  vectors = np.random.default_rng(0).normal(size=(1, 5, 4, 3)).astype(np.float32)

  found = np.asarray(matching.relations(vectors, 2, np.array([[0, 1, 0, 1, 2]])))

  for part in (slice(0, 2), slice(2, 5)):
    np.testing.assert_allclose(
        found[:, :, part, part], matching.relations(vectors[:, part], 2), rtol=1e-5)
  assert (found[:, :, 2:, :2] < -1e8).all()


def test_attention_is_matched_across_widths_and_head_counts(folder):
  student = dataclasses.replace(DECODER, num_layers=1, width=24, num_heads=4)
  _, batch, _, terms = _terms(folder, student, attention=1.0)
  same = loss._attention(
      _Pair(), _Pair.seen(batch), batch)

  assert (np.asarray(terms["attention"])[:, 1:] > 1e-6).all()
  # The first position can attend only to itself, so there is nothing to match.
  np.testing.assert_allclose(terms["attention"][:, 0], 0, atol=1e-6)
  np.testing.assert_allclose(same, 0, atol=1e-5)


class _Pair:
  """A teacher that is matched with itself, for which the loss must be 0."""
  related = ((0, 0),)

  @staticmethod
  def seen(batch):
    return type("Seen", (), {"related": {0: {
        name: batch[f"teacher_{name}_0"] for name in ("query", "key", "value")}}})


def test_sorting_probabilities_as_integers_matches_numpy():
  chances = _softmax(30 * np.random.default_rng(0).normal(size=(3, 40))).astype("f4")
  chances[0, :5] = [0, 1, 1e-45, 2e-38, 1]  # Ties, zero, and tiny numbers.

  found = jax.jit(teacher_lib._descending)(chances)

  np.testing.assert_array_equal(found, -np.sort(-chances))


@pytest.mark.parametrize("kind", [pytest.param("uld", marks=pytest.mark.long), "mined"])
def test_a_teacher_with_another_vocabulary_is_matched_by_alignment(kind, folder):
  own = config_lib.Tokenizer(kind="bytes")
  setup, batch, params, terms = _terms(
      folder, LSTM, vocabulary=own, vocabularies=kind, temperature=1.0)
  teacher = trained_lib.open(folder / "teacher")
  text = setup.data.tokenizer.decode(np.asarray(batch["inputs"][0]))
  bos = teacher.tokenizer.roles["bos"]
  theirs = _apply(teacher.model, teacher.params, np.array(
      [[bos, *teacher.tokenizer.encode(text)]], np.int32))[0]
  row = np.asarray(batch["inputs"][0]).tolist()
  first = row.index(setup.data.roles["bos"]) if setup.data.roles["bos"] in row else 0
  q = _softmax(_apply(setup.model, params, batch["inputs"])[0])
  p = _softmax(theirs)

  assert first == 0 and row[1:20] == setup.data.tokenizer.encode(text)[:19]
  for t in range(20):  # Every character is one byte, so every position is aligned.
    if kind == "uld":
      size = setup.data.tokenizer.size
      wanted = np.abs(-np.sort(-q[t]) - np.pad(
          -np.sort(-p[t]), (0, size - p.shape[-1]))).sum()
    else:
      mapped = np.zeros(setup.data.tokenizer.size)
      for token, chance in enumerate(p[t]):
        surface = teacher.tokenizer.tokens[token]
        role = next((role for role, number in teacher.tokenizer.roles.items()
                     if number == token), "")
        place = (setup.data.tokenizer.tokens.index(surface) if surface
                 else setup.data.roles.get(role, -1))
        mapped[place] += chance if place >= 0 else 0
      mapped /= mapped.sum()
      some = mapped > 0
      wanted = (mapped[some] * np.log(mapped[some] / q[t][some])).sum()
    np.testing.assert_allclose(terms["logits"][0, t], wanted, rtol=1e-3)
  assert (np.asarray(terms["aligned"])[0] == 1).all()


@pytest.mark.parametrize("model, fields, message", [
    (LSTM, {"attention": 1.0}, "Decoder to Recurrent"),
    (DECODER, {"attention": 1.0, "vocabularies": "uld"}, "position by position"),
    (LSTM, {"layers": ((1, 0),), "hidden": 1.0}, "below 1 and 2"),
    (DECODER, {"layers": ((1, 0), (1, 1)), "hidden": 1.0}, "twice"),
    (LSTM, {"temperature": 0.0}, "distill.temperature is 0.0"),
    (LSTM, {"hidden_loss": "l1"}, "must be one of mse, cosine"),
    (LSTM, {"logits": 0.0}, "no say"),
    (dataclasses.replace(LSTM, window=3), {"hidden": 1.0}, "window"),
], ids=range(8))
def test_invalid_distill_settings_are_refused(model, fields, message, folder):
  with pytest.raises(errors.UserError, match=message):
    assemble.build(
        _run(folder, model, distill=_distill(folder, **fields)), folder / "none")


def test_a_teacher_with_another_vocabulary_needs_an_alignment(folder):
  run = _run(folder, LSTM, distill=_distill(folder))
  run.tokenizer = config_lib.Tokenizer(kind="bytes")

  with pytest.raises(errors.UserError, match="'uld' or 'mined'"):
    assemble.build(run, folder / "none")


def test_matching_a_layer_below_stored_features_is_refused(folder):
  run = _run(
      folder, DECODER, distill=_distill(folder, hidden=1.0, layers=((0, 0),)),
      features=config_lib.Features(), transfer=plan_lib.TransferPlan(
          rules=(plan_lib.Rule(target=".*", source=None),),
          groups=(plan_lib.Group(name="top", params="(layer_1|final_norm|head)/.*"),
                  plan_lib.Group(name="rest", params=".*", unfreeze_step=None))))

  with pytest.raises(errors.UserError, match="layer 0 is matched"):
    assemble.build(run, folder / "none")


def test_a_study_trains_the_teacher_first(tmp_path):
  runs = {"taught": config_lib.Run(
      distill=config_lib.Distill(teacher=config_lib.Source(run="big"))),
          "big": config_lib.Run(), "alone": config_lib.Run()}
  study = config_lib.Study(question="?", runs=runs, pairs=(("taught", "alone"),))

  found = {job.name: job for job in jobs.jobs(study, tmp_path)}

  assert list(found).index("big") < list(found).index("taught")
  assert found["taught"].run.distill.teacher.path == str(tmp_path / "big")


def test_distill_and_features_round_trip_through_json():
  from transfer_gen.config import codec
  run = config_lib.Run(
      features=config_lib.Features(dtype="bfloat16"),
      distill=config_lib.Distill(teacher=config_lib.Source(path="a"),
                                 layers=((0, 1), (2, 3))))

  again = codec.run_from_json(json.loads(json.dumps(codec.run_to_json(run))))

  assert (again.features, again.distill) == (run.features, run.distill)


def test_answers_of_a_teacher_can_be_written_and_trained_on(folder):
  decoding = config_lib.Decoding(max_tokens=4, beams=5)
  count = answers.write(
      folder / "teacher", folder / "out.jsonl", decoding, ["abc", "hgf"])
  run = _run(folder, LSTM)
  run.data = dataclasses.replace(
      run.data, train=str(folder / "out.jsonl"), target_field="target")
  run.data.validation = run.data.test = run.data.train

  lines = list(map(json.loads, (folder / "out.jsonl").read_text().splitlines()))
  assert count == len(lines) == 2 and lines[0]["target"].startswith("abc")
  best = trained_lib.open(folder / "teacher").answers(["abc"], decoding).texts[0][0]
  assert lines[0] == {"input": "abc", "target": "abc" + best} and best
  with pytest.raises(errors.UserError, match="Give prompts"):
    answers.write(folder / "teacher", folder / "out.jsonl", decoding)
  assert registry.longest(assemble.build(_run(folder, DECODER), folder).model) == 32
