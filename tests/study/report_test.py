"""Tests for what the report of a study says, word by word."""

from tests.study import found
from transfer_gen.run import narrow
from transfer_gen.study import foretold
from transfer_gen.study import report
from transfer_gen.study import report_page


def _said(facts):
  """The text of a study with its lines joined."""
  return " ".join(report.study_text(facts).split())


def test_the_summary_says_what_was_measured():
  assert report.study_text(found.facts()) == f"""
Does <it> help?

run      seed     lr  best  validation    test  bits/    train  seconds
                      step                       byte   tokens
moved       0  0.003    40      2.5000  2.0000  1.250  123,456       13
moved       1  0.003    41      2.5000  2.1250  1.250  123,456       13
scratch     0  0.003    60      2.5000  2.0000  1.250  123,456       13
scratch     1  0.003    80      2.5000  2.1250  1.250  123,456       13

moved against scratch: +0.2500 nats per token (95% interval +0.1250 to +0.3750
  over 7 test documents and 2 seeds), better; ahead on 2 of 2 seeds, on 71% of
  the documents.
moved reached scratch's best validation loss on 1 of 2 seeds, at its first
  validation, after 10 steps on average; scratch took 70. It may have been up to
  10 steps sooner, as none is validated between.
Over the steps that both were validated in, moved's validation loss was lower by
  0.5000 nats per token on average (the area between the curves).

source cost 9,000 tokens in 5 s of training, before any target.

Samples of the test split:

  input      the first prompt
  reference  {"r" * 67}
             {"r" * 30}...
  moved      {"t" * 67}
             {"t" * 33}
  scratch    {"t" * 67}
             {"t" * 33}
"""


def test_a_control_that_was_never_reached_or_still_improved_is_said_once():
  pairs = [found.pair(reached=[None, None], control_still_improving=1),
           found.pair(treated="other", control_still_improving=1)]

  text = _said(found.facts(comparisons=pairs))

  assert text.count("scratch was still improving") == 1
  assert "over the last fifth of 1 of 2 runs" in text
  assert "moved never reached scratch's best validation loss." in text


def test_accounts_are_means_over_seeds():
  runs = {"moved": [found.run(seed, accounts=found.account(1 + 2 * seed))
                    for seed in (0, 1)],
          "scratch": [found.run(0), found.run(1)]}

  text = report.study_text(found.facts(runs=runs))

  lines = [line.split() for line in text.splitlines() if line.startswith("moved  ")]
  assert lines[-1] == ["moved", "2.0625", "2,000", "2.00", "1", "250", "1.000", "1.500",
                       "0.500"]


def test_accounts_without_forgetting_have_no_such_columns():
  short = {name: value for name, value in found.account(1).items()
           if name not in ("before", "after", "forgetting")}

  text = report.study_text(found.facts(
      runs={"moved": [found.run(0, accounts=short)], "scratch": [found.run(0)]}))

  assert "forgetting" not in text and "search" in text
  lines = [line.split() for line in text.splitlines() if line.startswith("moved  ")]
  assert lines[-1] == ["moved", "2.0000", "1,000", "1.00", "0.5", "150"]


def test_a_section_of_results_holds_the_command_the_rates_and_the_environment():
  section = report.study_markdown("bash run.sh", found.facts())

  assert section.startswith("## Does <it> help?\n\n```\nbash run.sh\n```\n\nmoved agai")
  assert ("| moved | 0 | 0.003 | 40 | 2.5000 | 2.0000 | 1.250 | 123,456 | 13 |"
          in section)
  assert f"\n| ---{' | ---:' * 8} |\n" in section
  assert section.endswith(
      "Python 3.11, jax 1, flax 2, optax 3; cpu (2); 34 s in 2 calls;"
      " commit 0123456789 with changes abcd; data files 1 abc.\n")


def test_the_rates_that_were_tried_are_said_wherever_results_are(tmp_path):
  facts = found.facts()
  curves = found.with_workdirs(tmp_path, facts)
  facts["trainings"] += [
      {**facts["trainings"][0], "run": name, "role": "tried", "lr": lr}
      for name, lr in (("moved", 0.001), ("moved", 0.01), ("scratch", 0.003))]

  for text in (_said(facts), report.study_markdown("bash run.sh", facts),
               report_page.study_page(facts, curves, tmp_path)):
    assert (
        "Learning rate chosen by validation, mean over seeds: moved 0.003 of 0.001,"
        " 0.003, 0.01; scratch 0.01 of 0.003, 0.01.") in text
    assert "The rate of scratch lies at the edge of what was tried" in text


def test_a_section_names_each_commit_and_version_that_trained_its_runs():
  section = report.study_markdown("bash run.sh", found.facts(environments=[
      found.environment(names=["moved", "source"], uncommitted=None),
      found.environment(names=["moved", "scratch"], commit="fedcba9876543210",
                        versions={"jax": "1.5", "flax": "2", "optax": "3"})]))

  assert section.splitlines()[-1] == (
      "Python 3.11, jax 1 (moved, source) and 1.5 (moved, scratch), flax 2, optax 3;"
      " cpu (2); 34 s in 2 calls; commit 0123456789 (moved, source) and commit"
      " fedcba9876 with changes abcd (moved, scratch); data files 1 abc.")


def test_runs_on_other_data_show_samples_of_their_own():
  other = {"prompt": "second", "reference": "right", "text": "wrong"}
  runs = {"moved": [found.run(0)], "scratch": [found.run(0)],
          "docs": [found.run(0, samples=[other])]}

  text = report.study_text(found.facts(runs=runs))

  shown = text.partition("Samples of the test split:\n")[2]
  assert [line.split()[0] for line in shown.splitlines()
          if line and not line.startswith(" " * 4)] == [
      "input", "reference", "moved", "scratch", "input", "reference", "docs"]
  assert shown.endswith("  input      second\n  reference  right\n  docs       wrong\n")


def test_runs_that_are_called_input_and_reference_hide_no_sample():
  sample = {"prompt": "asked", "reference": "right", "text": "said"}
  runs = {name: [found.run(0, samples=[sample])] for name in ("input", "reference")}

  text = report.study_text(found.facts(
      runs=runs, comparisons=[found.pair(treated="input", control="reference")]))

  assert [line.split() for line in text.partition(
      "Samples of the test split:")[2].splitlines() if line] == [
          ["input", "asked"], ["reference", "right"],
          ["input", "said"], ["reference", "said"]]


_LONG = "a_run_with_a_very_long_name_for_german_data_with_{}_documents_of_the_news"


def _of_long_names():
  names = [_LONG.format(number) for number in (10, 100)] + ["x" * 90, "Ü" * 40 + "-x2"]
  metrics = {"bleu": 12.3, "chrf": 33.0, "distinct1": 0.5, "intervals": {
      "bleu": [10.1, 13.2], "chrf": [30.5, 40.1], "distinct1": [0.1, 0.9]}}
  runs = {name: [found.run(seed, metrics=metrics, accounts=found.account(10**6),
                           train_tokens=123456789012) for seed in (0, 1)]
          for name in names}
  return names, found.facts(
      question=f"Is {names[0]} better?", runs=runs,
      comparisons=[found.pair(treated=name, control=names[-1]) for name in names[:-1]],
      sources={names[0]: {"train_tokens": 9000, "train_seconds": 5.4}},
      failures=[{"run": names[0], "name": names[0], "lr": 0.1,
                 "lines": ["The loss is nan at step 3. " * 9]}])


def test_everything_fits_80_columns_and_names_stay_whole_whatever_runs_are_called():
  names, facts = _of_long_names()

  text = report.study_text(facts)

  assert max(map(len, text.splitlines())) <= narrow.WIDTH == 80
  joined = "".join(text.split())
  first, *lines = narrow.table(report.report_rows.runs(facts), keys=2)
  width = first.index("seed") - 2
  column = "".join(line[:width].strip() for line in lines)
  for name in names:
    assert name in joined and column.count(name) >= 2, name


def test_columns_without_room_go_on_below_with_the_same_runs_and_seeds():
  _, facts = _of_long_names()

  lines = narrow.table(report.report_rows.runs(facts), keys=2)

  below = lines.index("")
  header, second = lines[0].split(), lines[below + 1].split()
  assert header[:2] == second[:2] == ["run", "seed"]
  cells = " ".join(" ".join(lines).split())
  for cell in ("0.003", "12.30 (10.10 to 13.20)", "123,456,789,012", "13"):
    assert cells.count(cell) >= 8, cell


def test_a_table_with_room_stays_in_single_lines():
  rows = [("run", "best step"), ("a", "1"), ("bc", "22")]

  assert narrow.table(rows) == ["run  best step", "a            1", "bc          22"]
  assert narrow.table(rows, width=10) == [
      "run  best", "     step", "a       1", "bc     22"]


def test_a_section_of_results_has_the_measures_before_training_and_their_ranks():
  pairs = [found.pair(treated=f"moved {i}", transfer=found.transfer())
           for i in range(4)]
  facts = found.facts(comparisons=pairs, foretold=foretold.correlate(pairs))

  section = report.study_markdown("bash run.sh", facts)

  assert ("| pair | step 0 | overlap | alignment | LogME | copied | CKA | gain |"
          in section)
  assert "| moved 3 | 3.2500 | 75.0% | - |" in section
  assert "| measure | rank correlation | 95% interval | pairs |" in section
