"""Names of metrics as fields of configs have them; `metrics.measures` computes them."""

from typing import Annotated

from transfer_gen.config import declare

LOSS = "loss"
LOSSES = (LOSS, "perplexity", "word_perplexity", "bits_per_byte", "token_accuracy")
# Those of texts that need no more than outputs and references.
TEXTS = (
    "bleu", "bleu_intl", "bleu_zh", "bleu_char", "chrf", "chrf++", "ter", "rouge1",
    "rouge2", "rougeL", "rougeLsum", "exact_match", "distinct1", "distinct2",
    "repetition")
NOVELTY = "novelty"  # Reads the text of training, too.
GROUPS = ("losses", "rouge", "distinct")  # Each stands for several.

# What validations are compared by: novelty would read all texts again each time.
Judge = Annotated[str, declare.OneOf(LOSS, *TEXTS)]
Named = Annotated[str, declare.OneOf(*LOSSES, *TEXTS, NOVELTY, *GROUPS)]
