"""Adapters: small params beside the kernels of a model, which learn in their place.

Each kind names kernels by a regex over whole leaf names, such as
`layer_0/attn/query/kernel`, and acts on all that it matches. Its own leaves stand
beside the kernel under the kernel's name, with `kernel` replaced.
"""

from collections.abc import Sequence
import dataclasses
import re
from typing import Annotated, ClassVar

from transfer_gen.config import declare, validate

# Regex that matches the name of each kernel inside a layer of any model.
LAYER_KERNELS = r"(.*/)?layer_\d+/.*kernel"
# The same of a model of drawings, whose layers are its encoder and its decoder.
DRAWN_KERNELS = r"(encoder|decoder|start)/.*kernel.*"
# No underscore, because the one behind an adapter's name separates it from the part.
_Name = Annotated[str, declare.Holds(
    lambda name: re.fullmatch("[a-z][a-z0-9]*", name) is not None,
    "of small letters and digits that begins with a letter")]


@declare.strict
@dataclasses.dataclass(frozen=True, kw_only=True)
class _Adapter:
  """What all kinds have in common: the names of their leaves."""
  # A `ClassVar`, which dataclasses do not take for a field. A leaf is called
  # `<name>_<part>`.
  PARTS: ClassVar[tuple[str, ...]] = ()

  params: declare.Pattern
  name: _Name

  @property
  def leaves(self) -> str:
    """Regex that matches the whole name of each of its leaves."""
    return self.leaves_of(*self.PARTS)

  def leaves_of(self, *parts: str) -> str:
    """Regex that matches the whole names of its leaves of the given parts."""
    # Recurrent cells have `input_kernel` and `recurrent_kernel`, also with suffixes.
    # `leaf` replaces the word `kernel` only, so the rest of the name stays.
    return (rf"(?:.*/)?(?:input_|recurrent_)?{self.name}_(?:{'|'.join(parts)})"
            r"(?:_\w+)?")

  def leaf(self, kernel: str, part: str) -> str:
    """Name of the leaf of a part beside a kernel: `a/lora_b` beside `a/kernel`."""
    head, slash, last = kernel.rpartition("/")
    return head + slash + last.replace("kernel", f"{self.name}_{part}", 1)

  # Now, since an error of `re` deep in a run would name no field.
  def __post_init__(self):
    validate.check(self, type(self).__name__)


@declare.strict
@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRA(_Adapter):
  """Low rank: x W becomes x W + s (x A) B, with B zero at first (Hu et al., 2021).

  Attributes:
    params: Regex for names of kernels. Required.
    rank: r, the number of columns of A and of rows of B, at least 1. Default: 8.
    alpha: Scale of the product, above 0: s is alpha / r. Default: 16.0.
    dropout: Dropout rate of what A reads, in [0, 1). It acts neither on one-hot tokens
      nor on what recurrent cells read. Default: 0.0.
    scaling: `standard`, where s is alpha / r; or `rslora`, where s is alpha / sqrt(r)
      (Kalajdzievski, 2023). Default: `standard`.
    dora: Whether the columns of W + s A B are rescaled to learned norms (Liu et al.,
      2024). The leaf holds the difference of these norms from the norms of W.
      Default: False.
    name: First part of the names of its leaves, small letters and digits: by default
      `lora_a` f32[*inputs, r], `lora_b` f32[r, *outputs] and, with `dora`,
      `lora_magnitude` f32[*outputs].
  """
  params: declare.Pattern
  rank: declare.Rank = 8
  alpha: declare.Positive = 16.0
  dropout: declare.Dropout = 0.0
  scaling: Annotated[str, declare.OneOf("standard", "rslora")] = "standard"
  dora: bool = False
  name: _Name = "lora"

  PARTS = ("a", "b", "magnitude")

  @property
  def scale(self) -> float:
    """s, the factor on the product of A and B."""
    # With alpha / r what is learned shrinks as r grows; the root keeps it stable.
    root = self.scaling == "rslora"
    return self.alpha / (self.rank ** 0.5 if root else self.rank)


@declare.strict
@dataclasses.dataclass(frozen=True, kw_only=True)
class IA3(_Adapter):
  """A learned factor on each feature, initialized to 1 (Liu et al., 2022).

  Attributes:
    params: Regex for names of kernels whose outputs it scales, biases included.
      Default: `.*/attn/(key|value)/kernel`.
    inputs: Regex for names of kernels whose inputs it scales.
      Default: `.*/mlp/down/kernel`.
    name: First part of the name of its leaf, `ia3_scale` f32[*outputs] or f32[*inputs].
      Default: `ia3`.
  """
  # Keys, values and what the MLP's last kernel reads: the three places of the paper
  # (section 3.3).
  params: declare.Pattern = r".*/attn/(key|value)/kernel"
  inputs: declare.Pattern = r".*/mlp/down/kernel"
  name: _Name = "ia3"

  PARTS = ("scale",)


@declare.strict
@dataclasses.dataclass(frozen=True, kw_only=True)
class Bottleneck(_Adapter):
  """A small hidden layer after a layer: y + up(act(down(y))) (Houlsby et al., 2019).

  Attributes:
    params: Regex for names of the kernels after which it stands; by default the last
      kernel of each attention and of each MLP, as in the paper.
    width: F, the number of hidden units, at least 1. Default: 64.
    activation: `gelu` (tanh approximation), `relu`, `silu` or `tanh`. Default: `gelu`.
    name: First part of the names of its leaves: by default `bottleneck_down`
      f32[*outputs, F], `bottleneck_up` f32[F, *outputs], which starts at 0, and their
      biases `bottleneck_down_bias` and `bottleneck_up_bias`.
  """
  params: declare.Pattern = r".*/(attn/out|mlp/down)/kernel"
  width: declare.Rank = 64
  activation: Annotated[str, declare.OneOf("gelu", "relu", "silu", "tanh")] = "gelu"
  name: _Name = "bottleneck"

  PARTS = ("down", "up")  # Names of biases continue these: `down_bias`.


@declare.strict
@dataclasses.dataclass(frozen=True, kw_only=True)
class Prefix(_Adapter):
  """Learned keys and values that every position sees (Li and Liang, 2021).

  They are params themselves, not outputs of another network. They occupy no positions:
  those of the text do not change.

  Attributes:
    params: Regex for names of key kernels of attentions of a Decoder.
      Default: `.*/attn/key/kernel`.
    length: P, the number of learned keys, at least 1. Default: 16.
    name: First part of the names of its leaves: by default `prefix_key` and
      `prefix_value` f32[P, G, K]. They belong to the attention, as in
      `layer_0/attn/prefix_key`.
  """
  params: declare.Pattern = r".*/attn/key/kernel"
  length: declare.Rank = 16
  name: _Name = "prefix"

  PARTS = ("key", "value")

  # One prefix serves the whole attention, so its leaves stand in the attention and not
  # beside the one kernel that names it.
  def leaf(self, kernel: str, part: str) -> str:
    """Name of the leaf of a part in the attention that a key kernel belongs to."""
    return f"{kernel.rpartition('/key/')[0]}/{self.name}_{part}"


# A new kind is added here and in `Adapter`: files find the class in `KINDS`.
KINDS = (LoRA, IA3, Bottleneck, Prefix)
Adapter = LoRA | IA3 | Bottleneck | Prefix


def leaves(adapters: Sequence[Adapter]) -> str:
  """Regex that matches the whole names of all adapters' leaves."""
  # (?!) never matches. An empty pattern would match an empty name.
  return "|".join(adapter.leaves for adapter in adapters) or r"(?!)"
