"""Tests of the picture of a study."""

import re

import defusedxml.ElementTree
import pytest

from tests.study import found
from transfer_gen.study import report_page
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

  assert report_plots.gains(facts)[0].table[2][0] == f"{'a' * 120} against {'b' * 120}"
  texts = [*filter(None, _texts(svg))]
  assert max(map(len, texts)) <= 118 and "漢字 <b> against scratch" in texts
  assert sum(one.count("Why?") for one in texts) == 60
  # Both ends, because names often differ there.
  assert any(one.startswith("a_long") and "long_x2 against" in one for one in texts)


_OTHER_TOKENS = {"same_tokens": False, "bits_per_byte": {
    "gain": -0.5, "low": -0.75, "high": 0.125, "documents": 7, "seeds": 2}}


def test_gains_stand_in_a_plot_for_each_unit_with_their_numbers(tmp_path):
  assert report_plots.gains(found.facts()) == []
  facts = found.facts(comparisons=[
      found.pair(), found.pair(treated="other", **_OTHER_TOKENS),
      found.pair(treated="third")])
  facts["runs"] |= {name: [found.run(0), found.run(1)] for name in ("other", "third")}

  nats, bits = report_plots.gains(facts)

  assert (nats.title, bits.title) == ("Gains, nats per token", "Gains, bits per byte")
  assert nats.table[1:] == [
      ["moved against scratch", "0.25", "0.125 to 0.375", "nats per token"],
      ["third against scratch", "0.25", "0.125 to 0.375", "nats per token"]]
  assert bits.table[1:] == [
      ["other against scratch", "-0.5", "-0.75 to 0.125", "bits per byte"]]
  for one, unit in ((nats, "nats per token"), (bits, "bits per byte")):
    assert f"gain, {unit}</text>" in one.picture
  texts = _texts(report_picture.draw(facts, found.with_workdirs(tmp_path, facts)))
  assert {"gain, nats per token", "gain, bits per byte"} <= {*texts}


def test_gain_against_forgetting_has_each_pair_in_its_own_unit():
  runs = {
      "moved": [found.run(0, accounts=found.account(1))],
      "scratch": [found.run(0, loss=2.5, bits_per_byte=1.5)],
      "scratch_x2": [found.run(0, loss=1.75)],
      "words": [found.run(0, loss=9.0, bits_per_byte=1.75)]}
  facts = found.facts(runs=runs, comparisons=[
      found.pair(), found.pair(control="scratch_x2"),
      found.pair(control="words", **_OTHER_TOKENS)])

  nats, bits = report_plots.forgetting(facts, {})

  assert nats.table == [
      ["", "forgetting, bits per byte", "gain, nats per token"],
      ["moved against scratch, seed 0", "0.5", "0.5"],
      ["moved against scratch_x2, seed 0", "0.5", "-0.25"]]
  assert bits.table == [
      ["", "forgetting, bits per byte", "gain, bits per byte"],
      ["moved against words, seed 0", "0.5", "0.5"]]
  assert "gain over the control, bits per byte" in bits.picture


def test_losses_of_drawings_are_in_nats_per_step(tmp_path):
  drawn = {name: [{key: value for key, value in run.items() if key != "bits_per_byte"}
                  for run in runs] for name, runs in found.facts()["runs"].items()}
  pair = {key: value for key, value in found.pair().items() if key != "bits_per_byte"}
  facts = found.facts(runs=drawn, comparisons=[pair])
  curves = found.with_workdirs(tmp_path, facts)
  for line in (line for group in curves.values() for lines in group.values()
               for line in lines):
    del line["bits_per_byte"]

  page = report_page.study_page(facts, curves, tmp_path)
  picture = report_picture.draw(facts, curves)

  assert "<p>Losses are in nats per step." in page
  for text in (page, picture):
    assert ">loss, nats per step</text>" in text and "nats per token" not in text
  assert sentences.losses(found.facts()) == "Losses are in nats per token."
  assert sentences.losses(found.facts(runs={**drawn, "a": [found.run(0)]})) == (
      "Losses are in nats per token, and of drawings in nats per step.")
