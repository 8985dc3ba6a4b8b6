"""Names of params that more than one folder needs to know.

A layer's params are called `layer_0/...` from the first layer on; where a model has two
sides, `encoder/layer_0/...` and `decoder/layer_0/...`. These names are public: plans
and checkpoints contain them.
"""

_LAYER = "layer_"

# First parts of names of leaves that read what the last layer returns. `distill` are
# the projections of a run with a teacher.
AFTER_LAYERS = ("final_norm", "head", "dense", "distill")


def layer(number: int) -> str:
  """Returns the name of a layer, counted from 0."""
  return f"{_LAYER}{number}"


def layer_number(name: str) -> int | None:
  """Returns the number of the layer whose leaf or module has this name.

  Args:
    name: A name such as `layer_3/attn/query/kernel` or `layer_3`, without a side.

  Returns:
    The layer's number, or None if the name belongs to no layer.
  """
  first = name.split("/")[0]
  return int(first.removeprefix(_LAYER)) if first.startswith(_LAYER) else None
