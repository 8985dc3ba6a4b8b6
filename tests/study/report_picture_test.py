"""Tests of the picture of a study."""

import re

import defusedxml.ElementTree
import pytest

from tests.study import found
from transfer_gen.study import report_picture
from transfer_gen.study import report_plots
from transfer_gen.study import sentences


def _texts(svg):
  return [element.text for element in defusedxml.ElementTree.fromstring(svg).iter()
          if element.tag.endswith("}text")]


def test_the_picture_says_question_answer_and_all_names_in_text(tmp_path):
  facts = found.facts(
      question="Worth $5 & <more>?", comparisons=[
          found.pair(), found.pair(treated="a $2 run", gain=-0.25, low=-0.5, high=0.0)])
  facts["runs"]["a $2 run"] = [found.run(0), found.run(1)]
  curves = found.with_workdirs(tmp_path, facts)

  svg = report_picture.draw(facts, curves)

  texts = _texts(svg)
  assert "Worth $5 & <more>?" in texts
  assert sentences.answer(facts)[0] in " ".join(filter(None, texts))
  assert {"moved", "scratch", "a $2 run", "a $2 run against scratch"} <= {*texts}
  # It stands for itself: no color of a page around it, and nothing to load.
  assert "currentColor" not in svg and not re.search(r'(href|src)="[^#]', svg)
  assert svg == report_picture.draw(facts, curves)


@pytest.mark.filterwarnings("error")
def test_names_and_questions_of_any_length_and_letters_leave_room_for_the_plots(
    tmp_path):
  runs = {"漢字 <b>": "scratch", "a" * 120: "b" * 120, f"a_{'long' * 20}_x2": "scratch"}
  facts = found.facts(question="Why? " * 60, comparisons=[
      found.pair(treated=name, control=control) for name, control in runs.items()])
  facts["runs"].update({name: [found.run(0), found.run(1)] for name in runs})

  svg = report_picture.draw(facts, found.with_workdirs(tmp_path, facts))

  assert report_plots.gains(facts).table[2][0] == f"{'a' * 120} against {'b' * 120}"
  texts = [*filter(None, _texts(svg))]
  assert max(map(len, texts)) <= 118 and "漢字 <b> against scratch" in texts
  assert sum(one.count("Why?") for one in texts) == 60
  # Both ends, because names often differ there.
  assert any(one.startswith("a_long") and "long_x2 against" in one for one in texts)


def test_gains_stand_in_a_plot_with_their_numbers_where_pairs_are_several():
  assert report_plots.gains(found.facts()) is None

  drawn = report_plots.gains(found.facts(comparisons=[
      found.pair(), found.pair(treated="other", same_tokens=False, bits_per_byte={
          "gain": -0.5, "low": -0.75, "high": 0.125, "documents": 7, "seeds": 2})]))

  assert drawn.table[1:] == [
      ["moved against scratch", "0.25", "0.125 to 0.375", "nats per token"],
      ["other against scratch", "-0.5", "-0.75 to 0.125", "bits per byte"]]
  assert "nats per token or bits per byte" in drawn.picture
