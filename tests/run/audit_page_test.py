"""Tests that the page of an audit lists both trees and is self-contained."""

import html.parser
import re

import numpy as np

from transfer_gen import tree
from transfer_gen.run import audit_page
from transfer_gen.run import page as page_lib
from transfer_gen.transfer import audit as audit_lib
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve

_VOID = {"meta", "br"}


def _spec(*shape):
  return tree.Spec(shape=shape, dtype=np.dtype("float32"), axes=("a", "b")[:len(shape)],
                   reads=(False,) * len(shape))


SOURCE = {"block_0/w": _spec(2, 3), "block_1/w": _spec(2, 3), "old<1>/w": _spec(4),
          "norm": _spec(4)}
TARGET = {"layer_0/w": _spec(2, 3), "layer_1/w": _spec(2, 3), "head/w": _spec(5),
          "head/b": _spec(6), "norm": _spec(4)}
PLAN = plan_lib.TransferPlan(
    rules=(plan_lib.Rule(target=r"layer_(\d)/w", source=r"block_\1/w"),
           plan_lib.Rule(target="head/.*", source=None),
           plan_lib.Rule(target="norm", source="norm")),
    groups=(plan_lib.Group(name="norm", params="norm", unfreeze_step=None),
            plan_lib.Group(name="all", params=".*")),
    unused_source=("old.*",))


class _Cells(html.parser.HTMLParser):
  """Parses the rows of the table as text, and checks that tags are closed."""

  def __init__(self, page):
    super().__init__()
    self.open, self.rows, self.classes = [], [], []
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    if tag not in _VOID:
      self.open.append(tag)
    if tag == "tr":
      self.rows.append([])
      self.classes.append(dict(attrs).get("class", ""))
    if tag in ("td", "th"):
      self.rows[-1].append("")

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if "td" in self.open or "th" in self.open:
      self.rows[-1][-1] += data


def made():
  rows = resolve.resolve(PLAN, {"": SOURCE}, TARGET)
  return audit_lib.summarize(PLAN, rows, {"": SOURCE})


def test_the_page_lists_source_and_target_leaves_side_by_side():
  page = _Cells(audit_page.trees(made()))

  assert not page.open
  assert page.rows[0] == ["source", "how", "target", "shape", "learns"]
  found = dict(zip(map(tuple, page.rows), page.classes))
  assert found[
      "block_{0,1}/w", "copy", "2 x layer_{0,1}/w", "(2,3)", "all"] == "copy"
  assert found["-", "fresh (init)", "head/w", "(5)", "all"] == "fresh"
  assert found["-", "fresh (init)", "head/b", "(6)", "all"] == "fresh"
  assert found["norm", "copy", "norm", "(4)", "norm (frozen)"] == "copy frozen"
  assert found["old<1>/w", "left behind", "-", "(4)", "-"] == "left"


def test_the_page_draws_the_share_of_params_per_origin():
  text = audit_page.trees(made())

  copied, total = 2 * 6 + 4, 2 * 6 + 4 + 5 + 6
  assert f'class=copied style="width:{100 * copied / total:.3f}%"' in text
  assert "mapped:" not in text  # The plan maps no leaf, so this share is left out.


def test_the_page_loads_no_external_resources():
  lines = [{"step": i, "split": "train", "loss": 1.0 / i} for i in (1, 2)]

  bare, whole = (page_lib.run_page("a<b", made(), part) for part in ([], lines))

  for page in (bare, whole):
    assert not re.search(r"<(script|link|img|iframe)|@import|url\(\s*['\"]?http", page)
    assert "a&lt;b" in page and "old&lt;1&gt;/w" in page
  assert "<svg" in whole and "<svg" not in bare
