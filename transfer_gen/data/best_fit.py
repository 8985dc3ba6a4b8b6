"""Places pieces of texts in rows that they share."""

import numpy as np


def place(
    sizes: np.ndarray, length: int) -> tuple[list[tuple[int, int, int]], int]:
  """Places pieces in rows, each in the fullest row that still has room for it.

  Args:
    sizes: i64[P], sizes of the pieces, in [1, length].
    length: Size of a row.

  Returns:
    (piece, row, column) of each piece, the largest first, so that the columns of a row
    ascend; and the number of rows.
  """
  by_room: list[list[int]] = [[] for _ in range(length + 1)]
  rooms = 0  # Bit i is set if a row has room for i more; one shift finds the best row.
  places, num_rows = [], 0
  for piece in np.argsort(-sizes, kind="stable").tolist():
    size = int(sizes[piece])
    if fitting := rooms >> size:
      room = size + (fitting & -fitting).bit_length() - 1
      row = by_room[room].pop()
      if not by_room[room]:
        rooms ^= 1 << room
    else:
      row, room, num_rows = num_rows, length, num_rows + 1
    places.append((piece, row, length - room))
    if room > size:
      by_room[room - size].append(row)
      rooms |= 1 << (room - size)
  return places, num_rows
