"""Tests for the texts of marks in plots."""

import math
import re

import defusedxml.ElementTree

from transfer_gen.run import plots


def _texts(svg):
  return [element.text for element in defusedxml.ElementTree.fromstring(svg).iter()
          if element.tag.endswith("title")]


def test_each_mark_has_its_own_text_whatever_a_curve_is_called():
  name = "a \"b\" 'c' <d> & é"
  plot = plots.curves("A title", "loss", {
      name: {"seed 0": [(1, 0.5), (20, math.nan), (1234567, math.inf), (30, 0.125)]},
      "other": {"": [(7, 2.0)]}})

  assert plot is not None
  assert _texts(plot.picture) == [
      f"{name}, seed 0, step 1: 0.5", f"{name}, seed 0, step 30: 0.125",
      "other, step 7: 2"]
  # A mark lies where its value is: the lower the value, the lower the mark.
  high, low = (float(y) for y in re.findall(
      r'<use [^>]* y="([\d.]+)"[^>]*><title>a ', plot.picture))
  assert high < low and 'id="curve' not in plot.picture
  # Each curve has a class, by which its box in the legend hides it.
  assert re.findall(r'class="(curve\d+)"', plot.picture) == ["curve0", "curve1"]


def test_a_picture_for_itself_has_the_same_texts_and_a_plot_of_many_points_none():
  with plots.canvas() as drawn:
    plots.draw(drawn.add_subplot(), "loss", {"a": {"": [(1234567, 2.0)]}})
    alone = plots.file(drawn, "A title")
  many = plots.curves("Many", "loss", {"a": {"": [(x, x / 2) for x in range(601)]}})

  assert "a, step 1,234,567: 2" in _texts(alone)
  assert many is not None and _texts(many.picture) == []
