"""Lines for the layers of which models of Hugging Face Transformers are made."""

from collections.abc import Mapping

from transfer_gen import config as config_lib
from transfer_gen.maps import architecture
from transfer_gen.maps import layouts

LAYER = r"layer_(\d+)"  # Its number is the first group of a line's target.


def linear(
    target: str, source: str, biased: bool, heads: tuple[int, ...] = (),
    mixed: tuple[int, ...] = ()) -> list[architecture.Line]:
  """Returns lines for a PyTorch `Linear`, whose weight is [outputs, inputs].

  Args:
    target: Our name, without `/kernel`.
    source: Their name, without `.weight`.
    biased: Whether the layer has a bias.
    heads: Shape of the outputs, if ours have several dimensions, e.g. (H, K).
    mixed: Shape of the inputs, if ours have several dimensions.
  """
  # The transpose comes first, so `heads` and `mixed` count dimensions as ours do.
  # `heads` is split before `mixed`, which would move it.
  parts = (layouts.Transpose(perm=(1, 0)),)
  parts += (layouts.Unflatten(dim=1, shape=heads),) if heads else ()
  parts += (layouts.Unflatten(dim=0, shape=mixed),) if mixed else ()
  bias = layouts.Unflatten(dim=0, shape=heads) if heads else layouts.COPY
  return [architecture.Line(target=f"{target}/kernel", source=f"{source}.weight",
                      layout=layouts.Chain(parts=parts))] + [
      architecture.Line(target=f"{target}/bias", source=f"{source}.bias", layout=bias)
  ] * biased


def norm(target: str, source: str, biased: bool) -> list[architecture.Line]:
  """Returns lines for a norm."""
  return [architecture.Line(target=f"{target}/scale", source=f"{source}.weight")] + [
      architecture.Line(target=f"{target}/bias", source=f"{source}.bias")] * biased


def block(
    target: str, source: str, linears: Mapping[str, str], norms: Mapping[str, str],
    heads: tuple[int, int]) -> list[architecture.Line]:
  """Returns lines for a block of `Linear`s and LayerNorms that have biases.

  Args:
    target: Our name of the block.
    source: Their name.
    linears: Names of the linear layers there by ours, such as `attn/query`.
    norms: Names of the norms there by ours.
    heads: (H, K).
  """
  found: list[architecture.Line] = []
  for ours, theirs in linears.items():
    part = ours.rpartition("/")[2]
    found += linear(
        f"{target}/{ours}", f"{source}.{theirs}", True,
        heads=heads if part in ("query", "key", "value") else (),
        mixed=heads if part == "out" else ())
  for ours, theirs in norms.items():
    found += norm(f"{target}/{ours}", f"{source}.{theirs}", True)
  return found


def head(model: config_lib.Decoder, source: str) -> list[architecture.Line]:
  """Returns the line for the output; none if it is tied."""
  return [] if model.tied else linear("head", source, False)
