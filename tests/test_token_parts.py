from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove import partitioning
from selfimprove.token_parts import Parts


@pytest.mark.parametrize(
  ('layout', 'rows', 'parts'),
  [
    ('tensor_parallel', 8, (4, 1)),
    ('tensor_parallel', 6, (2, 2)),
    ('tensor_parallel', 3, (1, 4)),
    ('fully_sharded', 8, (8, 1)),
    ('fully_sharded', 4, (4, 2)),
    ('fully_sharded', 1, (1, 8)),
  ],
)
def test_tokens_go_apart_and_come_together(layout, rows, parts):
  with jax.set_mesh(partitioning.make_mesh(data=2, fsdp=2, model=2)):
    made = Parts.of(layout, rows)
    assert made[:2] == parts
    slots = 5 + made.missing(5)
    assert slots == 5 + -5 % parts[1]
    tokens = jnp.arange(rows * slots * 3).reshape(rows, slots, 3)
    apart = made.apart(tokens, None)
    assert apart.shape[0] == parts[0] * parts[1]
    np.testing.assert_array_equal(made.together(apart, None, rows=rows), tokens)


def test_a_part_has_the_tokens_of_its_rows_and_slots():
  with jax.set_mesh(partitioning.make_mesh(data=2, fsdp=2, model=2)):
    tokens = jnp.arange(6 * 4).reshape(6, 4)
    apart = Parts.of('tensor_parallel', 6).apart(tokens)
  # Rows 0 to 2 and their first two slots, then the last two of the same rows.
  np.testing.assert_array_equal(apart[0], [0, 1, 4, 5, 8, 9])
  np.testing.assert_array_equal(apart[1], [2, 3, 6, 7, 10, 11])
