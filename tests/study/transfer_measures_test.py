"""Tests for what studies measure of a transfer, before training and after it."""

import dataclasses
import json
import random

from lxml import html
import numpy as np
import pytest
from scipy import stats

from tests import small_runs
from tests.commands import cli
from transfer_gen import config
from transfer_gen import sources
from transfer_gen.metrics import transferability
from transfer_gen.run import assemble
from transfer_gen.run import initial
from transfer_gen.run import trained as trained_lib
from transfer_gen.study import correspondence
from transfer_gen.study import evidence
from transfer_gen.study import foretold
from transfer_gen.study import jobs
from transfer_gen.study import layer_moves
from transfer_gen.study import report
from transfer_gen.study import study
from transfer_gen.study import trainings
from transfer_gen.study import transfer_measures
from transfer_gen.transfer import plan

_MODEL = dataclasses.replace(small_runs.DECODER, num_layers=2)
_CROSSED = plan.TransferPlan(
    rules=(plan.Rule(target="layer_0/(.*)", source=r"layer_1/\1"),
           plan.Rule(target="layer_1/.*", source=None),
           plan.Rule(target="(.*)", source=r"\1")),
    groups=(plan.Group(name="all", params=".*"),), unused_source=("layer_0/.*",))


def _study(folder):
  run = small_runs.configure(
      folder / "b.txt", _MODEL, steps=3, lr=0.02, log_every=3)
  first = dataclasses.replace(
      run, data=dataclasses.replace(run.data, train=str(folder / "a.txt")))
  moved = dataclasses.replace(
      run, source=config.Source(run="first"), transfer=_CROSSED)
  return config.Study(
      question="?", runs={"first": first, "moved": moved, "scratch": run},
      pairs=(("moved", "scratch"), ("scratch", "moved")), samples=0)


@pytest.fixture(scope="module", name="done")
def _done(tmp_path_factory):
  """Runs a study whose model starts from one layer of a source with the same tokens."""
  folder, rng = tmp_path_factory.mktemp("measured"), random.Random(0)
  words = "one two three four five six seven".split()
  for name in ("a.txt", "b.txt"):
    (folder / name).write_text("\n".join(
        " ".join([*rng.sample(words, 3), words[i % 7]]) for i in range(90)))
  return folder, study.run(_study(folder), folder / "w")


def _job(folder):
  return next(job for job in jobs.jobs(_study(folder), folder / "w")
              if job.name == "moved")


def _hidden(trained, batch, layer):
  nested: dict = {}
  for name, value in trained.params.items():
    *parents, last = name.split("/")
    node = nested
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = value
  seen = trained.model.apply({"params": nested}, batch["inputs"],
                             positions=batch.get("positions"),
                             capture_intermediates=True)[1]
  found = seen["intermediates"][f"layer_{layer}"]["__call__"][0]
  return np.asarray(found[0] if isinstance(found, tuple) else found, np.float64)


def test_a_pair_has_what_choose_measures_of_its_treated_run(done):
  folder, facts = done
  job = _job(folder)
  assembled = assemble.build(job.run, "nowhere")

  stored = facts["comparisons"][0]["transfer"]["before"]

  assert stored == json.loads((folder / "w" / "results.json").read_text())[
      "comparisons"][0]["transfer"]["before"]
  # By another route: what a model with these params scores, and the words themselves.
  scores = trained_lib.Trained(
      workdir=job.workdir, run=assembled.run, step=0, model=assembled.model,
      params=initial.params(assembled), tokenizer=assembled.data.tokenizer,
  ).score(assembled.data, "validation")
  assert stored["before"]["across_tokens"] == pytest.approx(
      scores.metrics()["bits_per_byte"])
  assert stored["overlap"] == 1 and stored["absent"] == {}
  assert 0 < stored["copied"] < 1
  again = evidence.measure(assembled, trained_lib.Reader())
  for key in ("alignment", "logme"):
    assert stored[key] == pytest.approx(again[key], rel=1e-3) and stored[key]


def test_the_distance_of_a_layer_is_the_cka_of_gram_matrices(done):
  folder, facts = done
  moved, source = (trained_lib.open(path) for path in (
      _job(folder).workdir, folder / "w" / "first"))
  data, _ = moved.data()
  states = [[], []]
  for batch in data.evaluation_batches("validation", moved.run.train.rows):
    for part, trained, layer in zip(states, (moved, source), (0, 1)):
      part.append(_hidden(trained, batch, layer)[batch["weights"] > 0])
  first, second = (np.concatenate(part) for part in states)

  found = facts["comparisons"][0]["transfer"]["moved"]

  centre = np.eye(len(first)) - 1 / len(first)
  grams = [centre @ one @ one.T @ centre for one in (first, second)]
  wanted = np.sum(grams[0] * grams[1]) / np.prod([
      np.sqrt(np.sum(one * one)) for one in grams])
  assert found["layers"] == [
      {"layer": 0, "source": 1, "cka": pytest.approx(wanted, abs=1e-4)}]
  assert found["mean"] == found["layers"][0]["cka"] < 1
  assert found["absent"] == ["layer 1: it reads no layer of the source"]


class _Lacking(sources.Source):
  """A source whose model has a leaf that was not stored."""

  def __init__(self, source):
    self._source = source

  model = property(lambda self: self._source.model)
  tokenizer = property(lambda self: self._source.tokenizer)
  specs = property(lambda self: {
      name: spec for name, spec in self._source.specs.items() if "norm" not in name})


def test_a_source_whose_layers_cannot_be_computed_is_no_error_and_has_a_reason(done):
  folder, _ = done
  moved = trained_lib.open(_job(folder).workdir)
  lacking = _Lacking(sources.open(folder / "w" / "first"))
  bare = sources.from_tree({"a": np.zeros(2)}, {"a": ("embed",)})

  reasons = [layer_moves.measure([], one, moved, moved.data()[0])["absent"]
             for one in (None, bare, lacking)]

  assert reasons[:2] == [["it has no source without a name"],
                         ["nothing says which model the source is"]]
  assert reasons[2][0].startswith("the source has no final_norm/")


def test_layers_correspond_as_the_plan_says(done):
  assembled = assemble.build(_job(done[0]).run, "nowhere")
  row = next(row for row in assembled.rows if row.name.startswith("layer_0/"))
  both = dataclasses.replace(row, name="layer_1/w", sources=("layer_0/w", "layer_1/w"))
  other = dataclasses.replace(row, name="layer_2/w", checkpoint="other")
  encoder = dataclasses.replace(row, name="encoder/layer_3/w")

  pairs, absent = correspondence.of_rows([row, both, other, encoder], 4)

  assert pairs == {0: 1}
  assert absent == {1: "it reads the layers 0, 1", 2: "it reads no layer of the source",
                    3: "it reads no layer of the source"}


def test_a_treated_run_without_a_source_has_no_measures_and_the_report_says_so(done):
  folder, facts = done

  assert facts["comparisons"][1]["transfer"] == {"absent": "it has no source"}
  shown = report.study_text(facts)
  assert "scratch: it has no source." in shown
  assert "moved: no CKA: layer 1: it reads no layer of the source." in shown
  part = shown[shown.index("Measures before training"):].splitlines()
  assert max(map(len, part)) <= 80
  assert part[2].split() == [
      "pair", "step", "0", "overlap", "alignment", "LogME", "copied", "CKA", "gain"]
  assert "Too few pairs to say which measure foretells a gain: 1 of the 4" in shown
  page = html.parse(str(folder / "w" / "report.html"))
  [title] = page.xpath("//h2[.='Before training']")
  rows = [[cell.text for cell in row] for row in title.xpath(
      "following-sibling::div[1]//tr")]
  assert rows[1][0] == "moved" and rows[2] == [
      "scratch", *"------", f"{facts['comparisons'][1]['bits_per_byte']['gain']:+.4f}"]
  assert page.xpath("//h3[.='How far each layer moved']/following-sibling::div[1]"
                    "//td/text()")[1].endswith("(source 1)")


def test_a_measure_that_fails_becomes_a_note_and_leaves_the_others(
    done, monkeypatch, capsys):
  folder, facts = done
  work = trainings.Trainings(None, (), folder / "notes")

  def broken(*_):
    raise FloatingPointError("no convergence")

  monkeypatch.setattr(transferability, "logme", broken)
  found = transfer_measures.of_job(_job(folder), trained_lib.Reader(), work.show)

  assert work.notes == [
      "LogME of moved, seed 0, lr 0.02: left out, because it failed:"
      " FloatingPointError: no convergence."]
  stored = facts["comparisons"][0]["transfer"]
  assert found["before"] == stored["before"] | {
      "logme": None, "absent": {"logme": "it failed"},
      "alignment": pytest.approx(stored["before"]["alignment"])}
  assert found["moved"]["mean"] == pytest.approx(stored["moved"]["mean"])


def test_text_of_a_language_model_aligns_with_pairs_in_rows_of_several_lengths(done):
  folder, _ = done
  (folder / "pairs.tsv").write_text("input\ttarget\n" + "".join(
      f"one two {i % 7}\tthree four {i % 5}\n" for i in range(60)))
  run = small_runs.configure(folder / "b.txt", _MODEL, steps=3)
  run = dataclasses.replace(
      run, source=config.Source(path=str(folder / "w" / "first")), transfer=_CROSSED,
      tokenizer=config.Tokenizer(kind="source"), data=config.Data(
          name="files", train=str(folder / "pairs.tsv"), input_field="input",
          target_field="target", length=_MODEL.max_length, buckets=(24,),
          split="end"))
  assembled = assemble.build(run, "nowhere")

  found = evidence.measure(assembled, trained_lib.Reader())

  assert -1 <= found["alignment"] <= 1 and "alignment" not in found["absent"]


def test_a_source_whose_text_is_gone_leaves_only_the_alignment_unknown(done):
  folder, _ = done
  (folder / "a.txt").rename(folder / "gone.txt")
  try:
    found = evidence.measure(
        assemble.build(_job(folder).run, "nowhere"), trained_lib.Reader())
  finally:
    (folder / "gone.txt").rename(folder / "a.txt")

  assert found["alignment"] is None and [*found["absent"]] == ["alignment"]
  assert "a.txt" in found["absent"]["alignment"]


@pytest.mark.parametrize("model, why", [
    (dataclasses.replace(small_runs.RNN, window=4), "a model with a window has no"),
    (config.Recurrent(cell="gru", num_layers=1, embed_width=8, hidden_width=8,
                      encoder=True, encoder_attention="additive"), ""),
], ids=["window", "attends in each step"])
def test_a_model_without_hidden_states_of_rows_has_its_other_measures(
    tmp_path, model, why):
  (tmp_path / "t.jsonl").write_text("".join(
      json.dumps({"a": f"line {i}", "b": f"no {i * 7 % 13}"}) + "\n"
      for i in range(40)))
  data = config.Data(name="files", train=str(tmp_path / "t.jsonl"), length=16,
                     target_field="b", input_field="a" if model.encodes else "")
  run = small_runs.configure("", model, steps=1, data=data)

  found = evidence.measure(assemble.build(run, "nowhere"), trained_lib.Reader())

  if why:
    assert found["logme"] is None and why in found["absent"]["logme"]
  else:
    assert np.isfinite(found["logme"]) and "logme" not in found["absent"]
  assert found["before"]["across_tokens"] > 0


def _pairs(count, seed=0, **changes):
  rng = np.random.default_rng(seed)
  return [{
      "treated": f"run{i}", "control": "scratch", "gain": rng.normal(),
      "bits_per_byte": {"gain": rng.normal()},
      "transfer": {"moved": None, "before": {
          "before": {"across_tokens": rng.normal()}, "overlap": 0.5,
          "alignment": rng.normal(), "logme": None if i == 0 else rng.normal(),
          "copied": 1.0, "absent": {"logme": "it is short"} if i == 0 else {}}}}
          | changes for i in range(count)]


def test_correlations_are_those_of_scipy_and_a_lower_loss_is_the_better():
  pairs = _pairs(7)
  before = [pair["transfer"]["before"] for pair in pairs]
  gains = [pair["bits_per_byte"]["gain"] for pair in pairs]

  found = foretold.correlate(pairs)

  assert (found["unit"], found["pairs"]) == ("bits per byte", 7)
  measures = found["measures"]
  assert measures["before"]["rho"] == pytest.approx(-stats.spearmanr(
      [one["before"]["across_tokens"] for one in before], gains).statistic)
  assert measures["alignment"]["rho"] == pytest.approx(stats.spearmanr(
      [one["alignment"] for one in before], gains).statistic)
  assert measures["logme"]["pairs"] == 6 and measures["logme"]["rho"] == pytest.approx(
      stats.spearmanr([one["logme"] for one in before[1:]], gains[1:]).statistic)
  assert measures["overlap"] == {"absent": "all pairs have the same value"}
  assert measures["before"]["low"] < measures["before"]["rho"]


def test_only_pairs_whose_gain_and_measures_are_known_count():
  unmeasured = _pairs(2, transfer=None)
  drawn = [{key: value for key, value in pair.items() if key != "bits_per_byte"}
           for pair in _pairs(5)]

  longer = _pairs(3, longer_control=True)

  mixed = foretold.correlate([*_pairs(4), *unmeasured, *drawn, *longer])
  alone = foretold.correlate(drawn)

  assert mixed["pairs"] == 4
  assert mixed["measures"]["logme"] == {"absent": "known of 3 pairs, and 4 are needed"}
  assert (alone["unit"], alone["pairs"]) == ("nats per step", 5)
  assert alone["measures"]["alignment"]["rho"] == pytest.approx(stats.spearmanr(
      [pair["transfer"]["before"]["alignment"] for pair in drawn],
      [pair["gain"] for pair in drawn]).statistic)


@pytest.fixture(name="studies")
def _studies(done, tmp_path, monkeypatch):
  """Two folders of studies: one that was run, and one of made-up pairs."""
  monkeypatch.chdir(tmp_path)
  real = json.loads((done[0] / "w" / "results.json").read_text())
  for name, pairs in (("real", real["comparisons"]), ("<made>", _pairs(4))):
    (tmp_path / name).mkdir()
    (tmp_path / name / "results.json").write_text(json.dumps({"comparisons": pairs}))
  return tmp_path


def test_studies_are_compared_over_all_their_pairs(studies, done, capsys):
  printed = cli.run(
      capsys, "compare", "real", "<made>", "--output=out", "--samples=0")

  facts = json.loads((studies / "out" / "results.json").read_text())
  before = [one["transfer"]["before"] for one in _pairs(4)]
  first = done[1]["comparisons"][0]
  gains = [first["bits_per_byte"]["gain"],
           *(one["bits_per_byte"]["gain"] for one in _pairs(4))]
  rho = -stats.spearmanr([
      first["transfer"]["before"]["before"]["across_tokens"],
      *(one["before"]["across_tokens"] for one in before)], gains).statistic
  assert json.loads(printed.splitlines()[-1]) == facts["foretold"]
  assert facts["foretold"]["measures"]["before"]["rho"] == pytest.approx(rho)
  names = [one["treated"] for one in facts["comparisons"]]
  assert names == ["real/moved", "real/scratch", *(f"<made>/run{i}" for i in range(4))]
  assert max(map(len, printed.splitlines()[:-1])) <= 80
  assert f"{rho:+.2f}" in printed and "<made>/run0: no LogME: it is short." in printed
  page = html.parse(str(studies / "out" / "report.html"))
  assert [row[0].text for row in page.xpath("//table")[0][1:]] == names
  assert page.xpath("//h3/text()") == ["Which of these measures to trust"]
  assert page.xpath("string(//pre[@class='command'])").startswith(
      "transfer-gen compare real '<made>'")


@pytest.mark.parametrize("text, message", [
    ('{"comparisons": [{}]}', "bad/results.json: it is damaged, or of another version"),
    ('{"comparisons": [', "Give the study again with the command that made it"),
    ('{"comparisons": []}', "bad: none of its pairs has a result yet. Give the study"),
    (json.dumps({"comparisons": _pairs(1, treated=["a"])}), "['a'] is no text"),
    (json.dumps({"comparisons": _pairs(1, gain="much")}), "it is damaged"),
    (json.dumps({"comparisons": _pairs(1, transfer={"before": {}})}), "it is damaged"),
])
def test_a_damaged_result_of_a_study_is_named(studies, capsys, text, message):
  (studies / "bad").mkdir()
  (studies / "bad" / "results.json").write_text(text)

  assert message in cli.refused(capsys, "compare", "bad", "real", "--output=out")
  assert not (studies / "out").exists()


def test_a_study_from_before_pairs_were_measured_is_shown_without_measures(
    studies, capsys):
  (studies / "old").mkdir()
  (studies / "old" / "results.json").write_text(
      json.dumps({"comparisons": _pairs(1, transfer=None)}))

  printed = cli.run(capsys, "compare", "old", "real", "--output=out")

  assert "old/run0: it was not measured." in printed
  assert (studies / "out" / "report.html").exists()


@pytest.mark.parametrize("words, message", [
    (("real", "./real"), "./real: it is given twice"),
    (("a=real", "a=<made>"), "both called 'a'"),
    (("real", "run", "nothing"), "run is no study. Give studies alone, or a run of"
     " each, such as its best one:\n  real: real=real/best"),
    (("real", "nothing"), "nothing: there is no such folder"),
    (("unmeasured", "b=unmeasured2"), "none of their pairs was measured"),
])
def test_studies_that_say_nothing_together_are_refused(studies, capsys, words, message):
  (studies / "run").mkdir()
  for name in ("unmeasured", "unmeasured2"):
    (studies / name).mkdir()
    (studies / name / "results.json").write_text(
        json.dumps({"comparisons": _pairs(1, transfer=None)}))

  assert message in cli.refused(capsys, "compare", *words, "--output=out")
  assert not (studies / "out").exists()
