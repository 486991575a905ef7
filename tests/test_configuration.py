"""Which bindings are accepted."""

from __future__ import annotations

import pytest

from selfimprove import configuration
from selfimprove.configuration import ConfigError, check_workdir
from selfimprove.experiment import Experiment
from tests.conformance import built

DEMO = 'experiments/score_self_correction/run.gin'
SCORE = 'gin_configs/algorithms/score.gin'


@pytest.mark.parametrize(
  ('binding', 'decides'),
  [
    ('stages.Stage.steps = 2', 'stage_one/'),
    # The value that is there anyway.
    ('combine.ProgressBonus.turn_weights = (0.0, 1.0)', 'stage_two/'),
  ],
)
def test_an_override_that_scopes_override_everywhere_is_refused(
  binding, decides
):
  with pytest.raises(ConfigError, match='has no effect') as caught:
    built.build(SCORE, binding)
  assert binding in str(caught.value)
  assert f'`{decides}' in str(caught.value)
  assert '\n' not in str(caught.value)


def test_configs_of_the_project_are_found_from_everywhere(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(configuration.ROOT)
  assert len(configuration.build(Experiment, files=[DEMO]).stages) == 3


def test_an_override_of_one_stage_is_accepted():
  # The second stage binds `alpha` by its scope; the first takes this one.
  one, two = built.build(SCORE, 'combine.ProgressBonus.alpha = 3.0').stages
  assert one.algorithm.combine.alpha == 3.0
  assert two.algorithm.combine.alpha == 10.0


def test_bindings_of_a_list_see_one_another():
  experiment = built.build(
    SCORE, 'BONUS = 4.0', 'stage_one/combine.ProgressBonus.alpha = %BONUS'
  )
  assert experiment.stages[0].algorithm.combine.alpha == 4.0


@pytest.mark.parametrize(
  ('binding', 'said'),
  [
    ("SEED = 'three'", "`SEED = 'three'`, for `.*Experiment.seed`, is no int"),
    ('LEARNING_RATE = True', 'LEARNING_RATE = True`.* is no float'),
    ('KL_WEIGHT = ("a", 1.0)', r'`kl/.*Term.weight` = \(.*\) is no float'),
    ("TASK = 'facts'", "`TASK = 'facts'`, for .* is no TextTask"),
    ('SEED = three', "'three' is no value; put text in quotes"),
  ],
)
def test_a_value_of_another_type_is_refused(binding, said):
  with pytest.raises(ConfigError, match=said):
    built.build(SCORE, binding)


@pytest.mark.parametrize(
  ('binding', 'nearest'),
  [
    ('LERNING_RATE = 1.0', '`LEARNING_RATE`'),
    ('experiment.Experiment.seeed = 3', '`seed`'),
    ('stage_one/stages.Stage.stepz = 3', '`steps`'),
  ],
)
def test_a_misspelt_name_is_refused_with_the_nearest(binding, nearest):
  with pytest.raises(ConfigError, match=f'nearest: {nearest}'):
    built.build(SCORE, binding)


def test_a_name_like_no_other_is_refused_without_a_guess():
  with pytest.raises(ConfigError) as caught:
    built.build(SCORE, 'QQQQ = 1')
  assert 'nearest' not in str(caught.value)


def test_a_run_goes_on_over_another_mesh_and_with_no_other_config(tmp_path):
  config = (
    'a.b = 1\nexperiment.MeshShape.data = -1\nMeshShape.model = 1\n'
    "presets.published.training_layout = 'tensor_parallel'\n"
    'stage_one/stages.Stage.prompts_at_once = 0\n'
    'stages.Stage.compiler_options = \\\n'
    "    ('xla_a=true',\n     'xla_b=1')\n"
  )
  moved = config.replace('model = 1', 'model = 2')
  moved = moved.replace('tensor_parallel', 'fully_sharded')
  moved = moved.replace('at_once = 0', 'at_once = 4')
  moved = moved.replace("'xla_a=true',\n     ", '')
  check_workdir(str(tmp_path), config, begun=False)
  check_workdir(str(tmp_path), moved, begun=True)
  # What evaluates the run finds the mesh that it had last.
  assert (tmp_path / 'config.gin').read_text() == moved
  with pytest.raises(ConfigError, match=r'has `a\.b = 1`'):
    check_workdir(str(tmp_path), config.replace('1', '2', 1), begun=True)
  assert (tmp_path / 'config.gin').read_text() == moved
