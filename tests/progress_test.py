"""Tests for progress lines in logs and bars on terminals."""

import io
import re

import jax
import numpy as np

from transfer_gen import progress


class _Terminal(io.StringIO):

  def isatty(self):
    return True


def test_a_log_gets_whole_lines_that_count_finished_units(capsys):
  with progress.track("decoding", total=1000, unit="input", done=200, every=0) as work:
    work.advance(300)
    work.advance(500)

  printed = capsys.readouterr()
  assert printed.out == ""  # Standard output is for results.
  lines = printed.err.splitlines()
  assert re.fullmatch(r"decoding: 500 of 1,000 inputs, \d+ s left", lines[0])
  assert lines[1:] == ["decoding: 1,000 of 1,000 inputs, 0 s left"]


def test_a_log_gets_no_line_from_short_work(capsys):
  with progress.track("decoding", total=2, unit="input") as work:
    work.advance(2)

  assert capsys.readouterr() == ("", "")


def test_the_time_left_counts_only_units_of_this_call(capsys, monkeypatch):
  clock = iter([100.0, 110.0])  # 10 seconds for the 5 units after the first 90.
  monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))

  work = progress.Progress("scoring", 100, "document", done=90, every=0)
  work.advance(5)
  work.close()

  assert "95 of 100 documents, 10 s left" in capsys.readouterr().err


def test_a_terminal_gets_a_bar_and_lines_above_it(monkeypatch):
  terminal = _Terminal()
  monkeypatch.setattr(progress.sys, "stderr", terminal)

  with progress.track("decoding", total=10, unit="input") as work:
    work.advance(10)
    work.say("compiling")

  assert "decoding:" in terminal.getvalue() and "compiling\n" in terminal.getvalue()
  assert "of 10 inputs" not in terminal.getvalue()  # That is the form of a log.


def test_durations_are_rounded_for_people():
  assert [progress.duration(s) for s in (0.4, 89, 90, 5360, 5400, 86399)] == [
      "0 s", "89 s", "2 min", "89 min", "1 h 30 min", "24 h 0 min"]


def test_a_log_says_when_a_large_program_compiles(capsys, monkeypatch):
  monkeypatch.setattr(progress, "_LARGE", 0.0)
  monkeypatch.setattr(progress, "_LONG", 0.0)
  scale = jax.jit(lambda x: x * 3)
  x = np.ones(3)

  with progress.track("scoring", total=2, unit="row") as work:
    scale(x)
    scale(x)  # Compiled already: it says nothing.
  jax.jit(lambda x: x * 4)(x)  # The work has ended: nobody listens.

  lines = capsys.readouterr().err.splitlines()
  assert lines == ["scoring: compiling", "scoring: compiled in 0 s"]
  assert work.compile_seconds > 0


def test_the_time_left_leaves_out_compiling(capsys, monkeypatch):
  clock = iter([100.0, 170.0])
  monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
  work = progress.Progress("scoring", 10, "row", every=0)

  work.compile_seconds = 60.0
  work.advance(5)
  work.close()

  assert "5 of 10 rows, 10 s left" in capsys.readouterr().err
