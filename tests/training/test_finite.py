from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.training import finite

_TERMS = ('policy', 'kl')


def _case(*, policy=1.0, kl=0.5, bias=0.0, kernel=0.0):
  losses = {'policy': jnp.float32(policy), 'kl': jnp.float32(kl)}
  grads = {
    'bias': jnp.zeros(3).at[1].set(bias),
    'dense': {'kernel': jnp.ones((4, 2), jnp.bfloat16).at[3, 1].set(kernel)},
  }
  return losses, grads


def _name(**case):
  losses, grads = _case(**case)
  return finite.nonfinite_name(
    finite.finite_codes(losses, grads), terms=_TERMS, params=grads
  )


def test_compiled_codes_are_the_same():
  losses, grads = _case(kl=np.inf, kernel=np.nan)
  np.testing.assert_array_equal(
    jax.jit(finite.finite_codes)(losses, grads),
    # kl, policy, bias, kernel
    [2, 0, 0, 1],
  )


def test_finite_numbers_have_no_name():
  assert _name() is None


@pytest.mark.parametrize(
  ('case', 'name'),
  [
    ({'kl': np.nan}, 'loss term `kl` is not finite (nan)'),
    ({'policy': -np.inf}, 'loss term `policy` is not finite (inf)'),
    ({'bias': np.nan}, 'gradient of `bias` is not finite (nan)'),
    ({'kernel': np.inf}, 'gradient of `dense/kernel` is not finite (inf)'),
  ],
)
def test_the_culprit_is_named_whatever_the_order_of_terms(case, name):
  assert _name(**case) == name


def test_the_loss_term_is_named_before_the_gradients_that_it_spoils():
  assert _name(kl=np.inf, bias=np.nan).startswith('loss term `kl`')


def test_large_finite_numbers_pass():
  largest = float(np.finfo(np.float32).max)
  assert _name(policy=largest, bias=-largest) is None


def test_the_error_names_the_step():
  losses, grads = _case(kl=np.nan)
  codes = finite.finite_codes(losses, grads)
  with pytest.raises(
    finite.NonFiniteError,
    match=r'^Step 12: loss term `kl` is not finite.*another --workdir.*init_fr',
  ):
    finite.check_finite(12, codes, terms=_TERMS, params=grads)


def test_a_finite_step_passes_the_check():
  losses, grads = _case()
  finite.check_finite(
    1, finite.finite_codes(losses, grads), terms=_TERMS, params=grads
  )


def test_codes_of_other_terms_are_refused():
  losses, grads = _case()
  with pytest.raises(ValueError, match='codes for 3 names'):
    finite.nonfinite_name(
      finite.finite_codes(losses, grads), terms=['kl'], params=grads
    )
