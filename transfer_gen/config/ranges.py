"""What the fields of several kinds of models may hold."""

from typing import Annotated

from transfer_gen.config import declare

# Far beyond any model that was ever trained. A number that is a slip, such as 2**63,
# would keep a process busy until its memory is full.
Layers = Annotated[int, declare.Between(1, 1000)]
Width = Annotated[int, declare.Between(1, 2**20)]
Width0 = Annotated[int, declare.Between(0, 2**20)]  # 0 is derived, or none.
Hidden = Annotated[int, declare.Between(0, 2**22)]
Heads = Annotated[int, declare.Between(1, 2**16)]
Positions = Annotated[int, declare.Between(1, 2**24)]
Vocabulary = Annotated[int, declare.Between(0, 2**24)]
Init = Annotated[str, declare.OneOf(
    "truncated_normal", "xavier_uniform", "xavier_normal", "he_uniform", "he_normal",
    "lecun_uniform", "lecun_normal")]
Marks = Annotated[str, declare.OneOf("none", "eos", "both")]
Dtype = Annotated[str, declare.OneOf("float32", "bfloat16", "float16")]
