"""What a run may read beside its data: checkpoints, stored features, a teacher."""

import dataclasses
from typing import Annotated

from transfer_gen.config import declare


@declare.strict
@dataclasses.dataclass
class Source:
  """A checkpoint that a transfer reads.

  Attributes:
    path: A run's workdir, or one of its checkpoints; or a checkpoint of another
      framework, see `sources`; or word vectors, see `sources.word_vectors`; or two
      paths as the sides of a pair, `ENCODER|DECODER`, see `sources.Pair`.
      Default: empty.
    map: For a checkpoint of another framework: name of its architecture, or path of
      your own map file, see `sources.foreign`. If empty, the architecture is detected
      from the files. Default: empty.
    vocabulary: For a checkpoint of another framework: whether to `refuse` or `repair` a
      vocabulary with damaged or duplicate entries, or with more tokens than the model
      has rows; or to read the weights alone: `none`. Default: `refuse`.
    tokenizer: For a checkpoint of another framework that holds no vocabulary, such as
      files of Keras and NumPy: path of a tokenizer or of a list of tokens; for a model
      of pairs whose sides have alphabets of their own `inputs|targets`. See
      `sources.given`. If empty, the default, the one that lies beside the checkpoint is
      taken, if any.
    unused: For a checkpoint of another framework: regexes for whole names of leaves in
      it that are read as if they were not there, such as `("score.*",)`. Default: none.
    idle_fields: For a checkpoint of another framework: fields of its config that no
      map knows and that change nothing which the model computes. Default: none.
    run: In a study: name of the run whose best checkpoint is read, in place of `path`.
      Default: empty.
    step: Step of the run's checkpoint to read, counted in updates. -1, the default,
      means the best one by validation loss, or the last one where none was validated.
    moments: Whether groups all of whose leaves are copied unchanged continue with the
      optimizer moments of the source. The checkpoint must hold them; a best one does
      not. Default: False.
  """
  path: str = ""
  map: str = ""
  vocabulary: Annotated[str, declare.OneOf("refuse", "repair", "none")] = "refuse"
  tokenizer: str = ""
  unused: tuple[declare.Pattern, ...] = ()
  idle_fields: tuple[declare.Filled, ...] = ()
  run: str = ""
  step: declare.NoToken = -1
  moments: bool = False


@declare.strict
@dataclasses.dataclass
class Features:
  """What the model's frozen beginning gives the rest, computed once and read from disk.

  The beginning consists of the embedding and of all first layers that never learn by
  the plan's groups; of a model with an encoder it is the encoder, no leaf of which may
  learn. With `float32`, training computes what it does without features.

  Attributes:
    path: Folder of what is stored, which runs may share: each beginning, data and
      dtype has its own subfolder. If empty, the default, it is `features/` in the
      workdir.
    dtype: Stored dtype: `float32`, or `bfloat16`, which takes half the space.
      Default: `float32`.
    check: Share of the batches, in [0, 1], that is computed again and compared whenever
      training starts or continues; at least one batch of each split and row length.
      Default: 0.01.
  """
  path: str = ""
  dtype: Annotated[str, declare.OneOf("float32", "bfloat16")] = "float32"
  # A stored state that no longer belongs to the model would train without any error, so
  # a share is computed again at each start.
  check: declare.Share = 0.01


@declare.strict
@dataclasses.dataclass
class Distill:
  """A trained teacher, and what the model learns from it.

  The loss is a weighted sum of terms; a weight of 0 leaves its term out. Factors that
  change over the steps are in `Run.objective`, under the same names. By default the
  teacher's soft targets weigh more than the data's hard targets, as in Hinton et al.
  (2015) and, with temperature 2, in DistilBERT (Sanh et al., 2019: 5 to 2).

  Attributes:
    teacher: A run's workdir, or a checkpoint of another framework with a map. Without
      a path, as by default, it is the run's source.
    ce: Weight of the cross entropy on the data, at least 0, and a factor on likelihoods
      of values, such as `objective.bivariate`. Default: 0.3.
    logits: Weight of T^2 KL(teacher || model), both softened by T = `temperature`
      (Hinton et al., 2015); at least 0. For models with different vocabularies see
      `vocabularies`. Of models of drawings it is that of the state of the pen, and the
      KL of the mixture of the offset is added, estimated by samples. Default: 0.7.
    temperature: T, above 0; larger values soften the distributions. Default: 2.0.
    hidden: Weight of the distance between hidden states, at least 0. Where widths
      differ, a learned projection of the model's states is compared (FitNets: Romero et
      al., 2015; TinyBERT: Jiao et al., 2020). Such projections are leaves like any
      other, e.g. `distill/layer_0/kernel`. Default: 0.0.
    hidden_loss: Distance of hidden states: `mse`, a mean over features, or `cosine`,
      1 - cos (DistilBERT). Default: `mse`.
    attention: Weight of the KL between relations of positions, softmax(Q Q'),
      softmax(K K') and softmax(V V') (MiniLMv2: Wang et al., 2021), at least 0; for
      Transformers. Default: 0.0.
    layers: Pairs (layer of the model, layer of the teacher), counted from 0, for
      `hidden` and `attention`. If (), the default, hidden states of each layer are
      compared with the teacher's layer at the same relative depth, as in TinyBERT, and
      attention in the last layer of both.
    vocabularies: `same`: both models have the same tokens. Otherwise they are compared
      where both have read the same bytes: `uld`, L1 between sorted probabilities
      (Boizard et al., 2024); or `mined`, KL after each of the teacher's tokens is
      replaced by the model's token with the smallest edit distance (FuseLLM: Wan et
      al., 2024). Default: `same`.
  """
  teacher: Source = dataclasses.field(default_factory=Source)
  ce: declare.Weight = 0.3
  logits: declare.Weight = 0.7
  temperature: declare.Positive = 2.0
  hidden: declare.Weight = 0.0
  hidden_loss: Annotated[str, declare.OneOf("mse", "cosine")] = "mse"
  attention: declare.Weight = 0.0
  # Pairs and not a function, so that a run can be written to JSON and read back.
  layers: tuple[tuple[declare.Count, declare.Count], ...] = ()
  vocabularies: Annotated[str, declare.OneOf("same", "uld", "mined")] = "same"
