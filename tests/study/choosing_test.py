"""Tests for choosing a source, with real runs of a second."""

import json
import pathlib
import random
import shutil

import jax
import numpy as np
import pytest

from tests import counting
from tests import small_runs
from tests.commands import cli
from transfer_gen import config
from transfer_gen.commands import flags
from transfer_gen.config import codec
from transfer_gen.config import file as config_file
from transfer_gen.metrics import transferability
from transfer_gen.run import assemble
from transfer_gen.run import initial
from transfer_gen.run import loop
from transfer_gen.run import trained as trained_lib
from transfer_gen.study import choice_page
from transfer_gen.study import chosen_config
from transfer_gen.study import contenders
from transfer_gen.study import evidence
from transfer_gen.study import gradients
from transfer_gen.study import probe
from transfer_gen.study import shares
from transfer_gen.study import source_texts
from transfer_gen.study import trial
from transfer_gen.train import objectives

STEPS, TRAINED = 6, 3  # Of the target, and of a choice.
_WORDS = "the cat sat on a mat and ran to some other house in green fields".split()
_CONFIG = '''
from tests import small_runs
from transfer_gen import config

def get_config(how=""):
  run = small_runs.configure("target.txt", small_runs.DECODER, steps=6, lr=0.01)
  if how == "open":
    run.model, run.tokenizer = "source", config.Tokenizer(kind="source")
  if how == "set":
    run.source = config.Source(path="english")
  return run
'''


def _lines(count, seed):
  rng = random.Random(seed)
  return [" ".join(rng.choice(_WORDS) for _ in range(8)) for _ in range(count)]


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory):
  """Trains sources on the target's language, on its characters shuffled, on others."""
  folder = tmp_path_factory.mktemp("choosing")
  english, rng = _lines(200, 1), random.Random(2)
  letters = sorted({*"".join(_WORDS)})
  moved = str.maketrans("".join(letters), "".join(letters[7:] + letters[:7]))
  texts = {
      "target": _lines(60, 0), "english": english,
      "shuffled": ["".join(rng.sample(line, len(line))) for line in english],
      "moved": [line.translate(moved) for line in english]}
  for name, lines in texts.items():
    (folder / f"{name}.txt").write_text("\n".join(lines))
  (folder / "target.py").write_text(_CONFIG)
  for name in ("english", "shuffled", "moved"):
    loop.train(small_runs.configure(
        folder / f"{name}.txt", small_runs.DECODER, steps=80, lr=0.02, log_every=80),
               folder / name)
  return folder


@pytest.fixture(name="folder")
def _folder(made, monkeypatch):
  monkeypatch.chdir(made)
  return made


def _words(workdir, *sources, how="", steps=0):
  return [f"--config=target.py{how}", f"--workdir={workdir}", f"--steps={steps}",
          *(f"--sources={source}" for source in sources)]


def _choose(capsys, workdir, *sources, **how):
  """Chooses, unless an earlier test has, and returns what is printed and written."""
  joined = ",".join(map(str, sources))  # Others are given as a flag each.
  printed = cli.run(capsys, "choose", *_words(workdir, joined, **how))
  return printed, json.loads(pathlib.Path(workdir, "choose.json").read_text())


def _assembled(text="target.txt", source="english"):
  run = small_runs.configure(text, small_runs.DECODER, steps=STEPS, lr=0.01,
                             source=config.Source(path=source))
  return assemble.build(run, "nowhere")


@pytest.mark.parametrize("steps", [0, TRAINED])
def test_a_source_of_the_language_ranks_above_one_of_shuffled_characters(
    folder, capsys, steps):
  printed, found = _choose(capsys, f"w{steps}", "shuffled", "english", steps=steps)

  assert found["order"].index("english") == 0 < found["order"].index("shuffled")
  losses = [found["evidence"][name]["after" if steps else "before"]["across_tokens"]
            for name in found["order"]]
  assert losses == sorted(losses) and len(losses) == 3
  table = printed[printed.rindex("\nsource ") + 1:].splitlines()
  assert [line.split()[0] for line in table[1:4]] == found["order"]
  assert max(map(len, table[:-2])) <= 80
  assert json.loads(table[-1])["winner"] == "english"


def test_the_loss_before_any_step_is_that_of_the_source_on_the_targets_text(
    folder, capsys):
  _, found = _choose(capsys, "w0", "shuffled", "english")
  for name in ("english", "shuffled"):
    source = trained_lib.open(name)
    data = trained_lib.Reader().data(
        config_file.load_run("target.py").data, source.tokenizer, source.run.model)

    alone = source.score(data, "validation").metrics()

    assert found["evidence"][name]["before"]["across_tokens"] == pytest.approx(
        alone["bits_per_byte"], rel=1e-4)


def test_the_overlap_is_the_share_of_characters_that_the_source_has(folder):
  pathlib.Path("digits.txt").write_text(
      "\n".join(f"{line} {i}" for i, line in enumerate(_lines(60, 0))))
  assembled = _assembled("digits.txt")

  texts, _ = trained_lib.Reader().texts(assembled.run.data)
  characters = "".join(text.target for text in texts["train"])
  share = sum(one in "".join(_WORDS) + " \n" for one in characters) / len(characters)

  assert shares.of_text(assembled) == pytest.approx(share) and 0.9 < share < 1


def test_the_alignment_is_the_cosine_of_the_gradients_of_both_texts(folder):
  assembled = _assembled(source="shuffled")
  params, run = initial.params(assembled), assembled.run
  theirs = source_texts.read(assembled, trained_lib.Reader())
  nll = objectives.next_token(assembled.model, False)

  def mean(params, data):
    batches = data.train_batches(run.train.rows, run.seed)
    many = [next(batches) for _ in range(8)]
    whole = {key: np.concatenate([one[key] for one in many]) for key in many[0]}
    return (nll(params, whole, jax.random.key(0)) * whole["weights"]).mean()

  flat = [np.concatenate([np.ravel(one) for one in jax.tree.leaves(
      jax.jit(jax.grad(lambda p, data=data: mean(p, data)))(params))])
          for data in (theirs, assembled.data)]
  cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])

  assert gradients.alignment(assembled, params, theirs) == pytest.approx(
      cosine, abs=1e-4)
  assert abs(cosine) < 0.999
  assert gradients.alignment(assembled, params, assembled.data) == pytest.approx(1)


def test_logme_is_that_of_hidden_states_and_the_first_byte_of_what_follows(folder):
  assembled = _assembled()
  params, run, data = initial.params(assembled), assembled.run, assembled.data
  features, labels = [], []
  batches = data.train_batches(run.train.rows, run.seed)
  count = data.facts["splits"]["train"]["tokens"]
  capture = jax.jit(lambda batch: assembled.model.apply(
      {"params": _nested(params)}, batch["inputs"], batch.get("positions"),
      capture_intermediates=True)[1])
  while sum(map(len, labels)) < count:
    batch = next(batches)
    counted = batch["weights"] > 0
    features.append(np.asarray(_block(capture(batch)))[counted])
    labels.append([data.tokenizer.decode([one])[:1].encode() or b"special"
                   for one in batch["targets"][counted]])
  reference = transferability.logme(
      np.concatenate(features)[:count], np.concatenate(labels)[:count])

  assert count < 2048
  found, why = probe.logme(assembled, params)
  assert found == pytest.approx(reference, abs=1e-4) and not why


def _nested(params):
  nested: dict = {}
  for name, value in params.items():
    *parents, last = name.split("/")
    node = nested
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = value
  return nested


def _block(seen):
  found = seen["intermediates"]["layer_0"]["__call__"][0]
  return found[0] if isinstance(found, tuple) else found


def test_the_written_config_trains_and_goes_on_where_the_choice_stopped(
    folder, capsys):
  _choose(capsys, "w3", "shuffled", "english", steps=TRAINED)
  before = small_runs.metrics(pathlib.Path("w3/runs/english"))

  new = cli.train(capsys, "--config=w3/chosen.py", "--workdir=new")
  on = cli.train(capsys, "--config=w3/chosen.py", "--workdir=w3/runs/english")

  assert new["step"] == on["step"] == STEPS
  assert codec.read_run("new").source.path == str(folder / "english")
  after = small_runs.metrics(pathlib.Path("w3/runs/english"))
  steps = [line for line in after if line["step"] <= TRAINED and line in before]
  assert steps and max(line["step"] for line in before) == TRAINED
  assert new["best_validation_loss"] == pytest.approx(on["best_validation_loss"])


def test_what_flags_change_is_in_the_written_config(folder):
  values = flags.parse("choose", [
      *_words("unused", "english", "shuffled"), "--config.optim.lr=0.5",
      "--config.data.length=12", "--config.remembered.train=english.txt"])
  first, *_ = contenders.of_run(values.config, values.sources)
  path = folder / "flags.py"

  chosen_config.write(path, values.given_config, values.config, first)

  run = config_file.load_run(str(path))
  assert (run.optim, run.data, run.remembered) == (
      values.config.optim, values.config.data, values.config.remembered)
  assert (run.optim.lr, run.data.length, run.optim.warmup_steps) == (0.5, 12, 1)
  assert run.source.path == str(folder / "english")


def test_a_choice_that_was_cut_measures_only_what_is_missing(folder, capsys):
  _, found = _choose(capsys, "w3", "shuffled", "english", steps=TRAINED)
  left = {"asked": found["asked"], "evidence": {
      name: found["evidence"][name] for name in ("shuffled", "english")}}
  pathlib.Path("cut").mkdir()
  pathlib.Path("cut/choose.json").write_text(json.dumps(left))
  pathlib.Path("cut/choose.json.partial.lock").write_text("")

  with counting.calls((evidence, "measure"), (trial, "scores")) as counts:
    _, again = _choose(capsys, "cut", "shuffled", "english", steps=TRAINED)
    _, third = _choose(capsys, "cut", "shuffled", "english", steps=TRAINED)

  assert counts == {"measure": 1, "scores": 1}
  assert again["order"] == found["order"] and third == again
  assert again["evidence"]["scratch"]["after"] == pytest.approx(
      found["evidence"]["scratch"]["after"])


def test_where_no_source_helps_the_choice_says_so_and_starts_from_scratch(
    folder, capsys):
  shutil.copytree("moved", "copied", dirs_exist_ok=True)

  printed, found = _choose(capsys, "none", "moved", "copied")

  assert "None of the sources helps: scratch has" in printed and not found["helps"]
  assert found["winner"] == "scratch"
  assert config_file.load_run("none/chosen.py").source is None


def test_a_target_that_takes_its_sources_model_has_a_baseline_for_each(folder, capsys):
  _, found = _choose(capsys, "open", "shuffled", "english", how=":open")

  assert found["winner"] == "english" and set(found["order"]) == {
      "english", "shuffled", "scratch_english", "scratch_shuffled"}
  run = config_file.load_run("open/chosen.py")
  assert (run.model, run.source.path) == ("source", str(folder / "english"))


def test_a_choice_of_other_steps_or_of_a_changed_source_is_refused(folder, capsys):
  _choose(capsys, "w0", "shuffled", "english")

  message = cli.refused(capsys, "choose", *_words("w0", "shuffled", "english", steps=2))

  assert "w0 belongs to another choice" in message
  assert "steps: 0 there, 2 here" in message


@pytest.mark.parametrize("sources, how, message", [
    (["english"], {}, "needs two --sources at least, and has 1"),
    (["english", "english"], {}, "a path is given twice"),
    (["english", "./english/"], {}, "english and ./english/ are the same checkpoint"),
    (["english", "english/checkpoints"], {}, "are the same checkpoint"),
    (["english", ""], {}, "--sources is empty"),
    (["english", "shuffled"], {"how": ":set"}, "has a source already, 'english'"),
    (["english", "shuffled"], {"steps": 7}, "--steps is 7, and the run has"),
    (["english", "shuffled"], {"steps": -1}, "must be at least 0"),
])
def test_a_mistake_gives_one_message(folder, capsys, sources, how, message):
  assert message in cli.refused(capsys, "choose", *_words("bad", *sources, **how))
  assert not pathlib.Path("bad").exists()


def test_all_sources_that_cannot_be_compared_are_named_in_one_message(folder, capsys):
  np.savez("other.npz", bias=np.zeros(8))

  message = cli.refused(capsys, "choose", *_words(
      "bad", "english", "nowhere", "other.npz"))

  assert "nowhere: there is no such file" in message and "other.npz" in message
  assert "english" not in message and not pathlib.Path("bad").exists()


def test_a_workdir_of_something_else_is_refused_and_left_alone(folder, capsys):
  before = sorted(pathlib.Path("moved").rglob("*"))

  message = cli.refused(capsys, "choose", *_words("moved", "english", "shuffled"))

  assert "moved is not empty and has no choose.json" in message
  assert sorted(pathlib.Path("moved").rglob("*")) == before


def test_a_damaged_record_is_named(folder, capsys):
  pathlib.Path("damaged").mkdir()
  pathlib.Path("damaged/choose.json").write_text('{"asked": {}, "evidence": {"a": 1}}')

  message = cli.refused(capsys, "choose", *_words("damaged", "english", "shuffled"))

  assert "damaged/choose.json: it is damaged" in message
  assert "take another --workdir to measure anew" in message


def test_the_table_fits_80_columns_whatever_sources_are_called(folder, capsys):
  _, found = _choose(capsys, "w0", "shuffled", "english")
  rename = lambda name: name * 20
  found["evidence"] = {rename(k): one for k, one in found["evidence"].items()}
  found["order"] = [*map(rename, found["order"])]
  found["winner"] = rename(found["winner"])

  table = choice_page.text(found).split("\n\n")[0].splitlines()

  assert max(map(len, table)) <= 80
