"""Tests for what the report of a study says, word by word."""

import json

from transfer_gen.study import report


def _run(seed, **changes):
  run = {
      "seed": seed, "lr": 0.003, "step": 40 + seed, "validation_loss": 2.5,
      "loss": 2.0 + seed / 8, "bits_per_byte": 1.25, "train_tokens": 123456,
      "train_seconds": 12.6, "samples": [
          {"prompt": "the  first\nprompt", "reference": "r" * 101, "text": "t" * 100}]}
  return run | changes


def _pair(**changes):
  return {
      "treated": "moved", "control": "scratch", "gain": 0.25, "low": 0.125,
      "high": 0.375, "documents": 7, "seeds": 2, "wins": 0.714, "seeds_ahead": 2,
      "same_tokens": True, "reached": [10, None], "reached_after": [0, None],
      "gap": 0.5, "metrics": {}, "alarm": {"raised": False},
      "effective_data": {}, "payback": {}, "control_still_improving": 0,
      "least_fall": "1%"} | changes


def _facts(**changes):
  return {
      "question": "Does <it> help?",
      "runs": {"moved": [_run(0), _run(1)],
               "scratch": [_run(0, step=60), _run(1, step=80)]},
      "comparisons": [_pair()], "summary": {
          "seeds": 2, "lrs": {"moved": 0.003, "scratch": 0.01}, "seconds": 34.4,
                  "calls": 2},
      "sources": {"source": {"train_tokens": 9000, "train_seconds": 5.4}},
      "environment": {
          "versions": {"jax": "1", "flax": "2", "optax": "3"}, "python": "3.11",
          "devices": ["cpu", "cpu"], "commit": "0123456789abcdef",
          "uncommitted": "abcd"},
      "data": "files 1 abc"} | changes


def _account(number):
  return {"learning": 1000 * number, "slot_bytes": 2**20 * number,
          "gflops_a_step": 0.5 * number, "gflops": 100.0 * number,
          "search_gflops": 50.0, "before": 1.0, "after": 1.5, "forgetting": 0.5}


def test_the_summary_says_what_was_measured():
  assert report.study_text(_facts()) == f"""
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
  pairs = [_pair(reached=[None, None], control_still_improving=1),
           _pair(treated="other", control_still_improving=1)]

  text = report.study_text(_facts(comparisons=pairs))

  assert text.count("scratch was still improving") == 1
  assert "over the last fifth of 1 of 2 runs" in text
  assert "moved never reached scratch's best validation loss." in text


def test_accounts_are_means_over_seeds():
  runs = {"moved": [_run(0, accounts=_account(1)), _run(1, accounts=_account(3))],
          "scratch": [_run(0), _run(1)]}

  text = report.study_text(_facts(runs=runs))

  lines = [line.split() for line in text.splitlines() if line.startswith("moved  ")]
  assert lines[-1] == ["moved", "2.0625", "2,000", "2.00", "1", "250", "1.000", "1.500",
                       "0.500"]


def test_accounts_without_forgetting_have_no_such_columns():
  short = {name: value for name, value in _account(1).items()
           if name not in ("before", "after", "forgetting")}

  text = report.study_text(_facts(
      runs={"moved": [_run(0, accounts=short)], "scratch": [_run(0)]}))

  assert "forgetting" not in text and "GFLOPs, search in it" in text
  lines = [line.split() for line in text.splitlines() if line.startswith("moved  ")]
  assert lines[-1] == ["moved", "2.0000", "1,000", "1.00", "0.5", "150"]


def test_a_section_of_results_holds_the_command_the_rates_and_the_environment():
  found = report.study_markdown("bash run.sh", _facts())

  assert found.startswith("## Does <it> help?\n\n```\nbash run.sh\n```\n\nmoved agai")
  assert "| moved | 0 | 0.003 | 40 | 2.5000 | 2.0000 | 1.250 | 123,456 | 13 |" in found
  assert f"\n| ---{' | ---:' * 8} |\n" in found
  assert found.endswith(
      "Learning rate chosen by mean validation loss: moved 0.003, scratch 0.01.\n"
      "Python 3.11, jax 1, flax 2, optax 3; cpu (2); 34 s in 2 calls;"
      " commit 0123456789 with changes abcd; data files 1 abc.\n")


def test_runs_on_other_data_show_samples_of_their_own():
  other = {"prompt": "second", "reference": "right", "text": "wrong"}
  runs = {"moved": [_run(0)], "scratch": [_run(0)], "docs": [_run(0, samples=[other])]}

  text = report.study_text(_facts(runs=runs))

  shown = text.partition("Samples of the test split:\n")[2]
  assert [line.split()[0] for line in shown.splitlines() if line] == [
      "input", "reference", "moved", "scratch", "input", "reference", "docs"]
  assert shown.endswith("  input      second\n  reference  right\n  docs       wrong\n")


def test_the_data_of_all_runs_are_named_once(tmp_path):
  for run, facts in enumerate((
      {"name": "docs", "version": "1.2", "fingerprint": "a" * 64},
      {"name": "files", "version": None, "fingerprint": "b" * 64},
      {"name": "docs", "version": "1.2", "fingerprint": "a" * 64})):
    (tmp_path / str(run)).mkdir()
    (tmp_path / str(run) / "data.json").write_text(json.dumps(facts))

  title = report.data_title(tmp_path / str(run) for run in range(3))

  assert title == f"docs 1.2 {'a' * 16}, files {'b' * 16}"


def test_the_page_escapes_what_runs_are_called_and_write():
  curves = {"moved": [{"step": 1, "split": "validation", "loss": 1.0}]}

  page = report.study_page(_facts(), curves)

  assert "<h1>Does &lt;it&gt; help?</h1>" in page and "<it>" not in page
  assert page.count("<tr>") == 5 and "<svg" in page
  assert "Gain against forgetting" not in page


def test_gain_is_plotted_against_forgetting_where_both_are_known():
  runs = {"moved": [_run(0, accounts=_account(1))], "scratch": [_run(0)]}

  curves = {"moved": [{"step": 1, "split": "validation", "loss": 1.0}]}

  page = report.study_page(_facts(runs=runs), curves)

  assert "<h2>Gain against forgetting</h2>" in page and page.count("<svg") == 2
