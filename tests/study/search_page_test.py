"""Tests for the evidence of a search."""

import re

from transfer_gen.study import search_page

FACTS = {
    "winner": "b", "budget": 40, "overrides": ["--config.strategy.name=b"],
    "losses": {"a": {"5": 3.0}, "b": {"5": 2.5, "10": 2.0}, "c": {"5": 2.75}},
    "flops": {"a": 1.5e9, "b": 2.25e12, "c": 4e8},
    "relative_gradients": {"head": 0.5, "layer_0": 0.125}}


def test_candidates_that_went_further_come_first_with_losses_and_costs():
  assert search_page.text(FACTS) == """\
auto chose b. Validation loss, nats per token, of what it tried (20 of 40 steps):

strategy  step 5  step 10   GFLOPs
b         2.5000   2.0000  2,250.0
c         2.7500               0.4
a         3.0000               1.5

Where the gradient is large against the params, from the top to the bottom:

layer    gradient / params  of the largest
head                   0.5            1.00
layer_0              0.125            0.25

The same run, without a search:
  --config.strategy.name=b
"""


def test_the_page_holds_the_table_and_a_plot_and_escapes_names():
  page = search_page.page(FACTS | {"winner": "<b>", "losses": {"<b>": {"5": 1.0}},
                                   "flops": {"<b>": 1e9}})

  assert "<h1>auto chose &lt;b&gt;</h1>" in page
  assert page.count('role="img"') == 2
  assert re.search(r"&lt;b&gt; +1\.0000 +1\.0\n", page)
