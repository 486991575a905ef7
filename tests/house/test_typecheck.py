"""The type checks of the suite disturb nothing that they watch."""

from __future__ import annotations

import random

import pytest
from beartype.roar import BeartypeCallHintViolation

from tests.typecheck import checked


def test_a_check_leaves_the_global_random_generator_alone():
  @checked
  def total(numbers: list[int]) -> int:
    return sum(numbers)

  before = random.getstate()
  assert total([1, 2, 3]) == 6
  assert random.getstate() == before


def test_items_of_a_list_are_checked():
  @checked
  def total(numbers: list[int]) -> int:
    return len(numbers)

  with pytest.raises(BeartypeCallHintViolation):
    total(['one', 'two', 'three'])
