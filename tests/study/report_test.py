"""Tests for what the report of a study says, word by word."""

from tests.study import found
from transfer_gen.study import report


def test_the_summary_says_what_was_measured():
  assert report.study_text(found.facts()) == f"""
Does <it> help?

run      seed     lr  best step  validation    test  bits/byte  train tokens  seconds
moved       0  0.003         40      2.5000  2.0000      1.250       123,456       13
moved       1  0.003         41      2.5000  2.1250      1.250       123,456       13
scratch     0  0.003         60      2.5000  2.0000      1.250       123,456       13
scratch     1  0.003         80      2.5000  2.1250      1.250       123,456       13

moved against scratch: +0.2500 nats per token (95% interval +0.1250 to +0.3750 \
over 7 test documents and 2 seeds), better; ahead on 2 of 2 seeds, on 71% of the \
documents.
moved reached scratch's best validation loss on 1 of 2 seeds, at its first validation, \
after 10 steps on average; scratch took 70. It may have been up to 10 steps sooner, as \
none is validated between.
Over the steps that both were validated in, moved's validation loss was lower by \
0.5000 nats per token on average (the area between the curves).

source cost 9,000 tokens in 5 s of training, before any target.

Samples of the test split:

  input      the first prompt
  reference  {"r" * 97}...
  moved      {"t" * 100}
  scratch    {"t" * 100}
"""


def test_a_control_that_was_never_reached_or_still_improved_is_said_once():
  pairs = [found.pair(reached=[None, None], control_still_improving=1),
           found.pair(treated="other", control_still_improving=1)]

  text = report.study_text(found.facts(comparisons=pairs))

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

  assert "forgetting" not in text and "GFLOPs, search in it" in text
  lines = [line.split() for line in text.splitlines() if line.startswith("moved  ")]
  assert lines[-1] == ["moved", "2.0000", "1,000", "1.00", "0.5", "150"]


def test_a_section_of_results_holds_the_command_the_rates_and_the_environment():
  section = report.study_markdown("bash run.sh", found.facts())

  assert section.startswith("## Does <it> help?\n\n```\nbash run.sh\n```\n\nmoved agai")
  assert ("| moved | 0 | 0.003 | 40 | 2.5000 | 2.0000 | 1.250 | 123,456 | 13 |"
          in section)
  assert f"\n| ---{' | ---:' * 8} |\n" in section
  assert section.endswith(
      "Learning rate chosen by mean validation loss: moved 0.003, scratch 0.01.\n"
      "Python 3.11, jax 1, flax 2, optax 3; cpu (2); 34 s in 2 calls;"
      " commit 0123456789 with changes abcd; data files 1 abc.\n")


def test_runs_on_other_data_show_samples_of_their_own():
  other = {"prompt": "second", "reference": "right", "text": "wrong"}
  runs = {"moved": [found.run(0)], "scratch": [found.run(0)],
          "docs": [found.run(0, samples=[other])]}

  text = report.study_text(found.facts(runs=runs))

  shown = text.partition("Samples of the test split:\n")[2]
  assert [line.split()[0] for line in shown.splitlines() if line] == [
      "input", "reference", "moved", "scratch", "input", "reference", "docs"]
  assert shown.endswith("  input      second\n  reference  right\n  docs       wrong\n")
