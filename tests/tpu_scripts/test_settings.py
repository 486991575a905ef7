"""Settings: where they come from, and what is said of bad ones."""

from __future__ import annotations

import pytest

from tests.tpu_scripts.cloud import dry

BAD = {
  'name': ('Mine', 'score_1', '-a', 'a' * 53),
  'zone': ('mars', 'us-east5', 'us-east5-a; rm -rf x'),
  'project': ('My Project', 'a', '$(id)'),
  'type': ('v5e', 'v5litepod', 'tpu-8'),
  'slices': ('0', 'two', '-1', '1.5'),
  'capacity': ('cheap', 'SPOT'),
  'connect': ('vpn',),
  'wait_minutes': ('soon', '-5'),
  'poll_seconds': ('0', 'x'),
  'run': ('a b', '../x', "o'clock"),
  'network': ('a/b',),
  'service_account': ('me',),
  'valid_until': ('tomorrow',),
}


@pytest.mark.parametrize(
  ('setting', 'value'),
  [(setting, value) for setting in BAD for value in BAD[setting]],
)
def test_a_bad_setting_is_one_sentence_with_value_and_fix(
  setting, value, cloud
):
  sentence = cloud.refusal('create', '--type=v4-8', f'--{setting}={value}')
  assert f"TPU_{setting.upper()} is '{value}'" in sentence
  assert 'which must be' in sentence
  assert f'--{setting}=' in sentence
  assert not cloud.calls()


@pytest.mark.parametrize('setting', ['name', 'zone', 'project'])
def test_a_missing_setting_is_named(setting, cloud):
  sentence = cloud.refusal('status', **{f'TPU_{setting.upper()}': ''})
  assert f'TPU_{setting.upper()} is not set' in sentence
  assert f'--{setting}=' in sentence


def test_create_needs_a_type(cloud):
  assert 'TPU_TYPE is not set' in cloud.refusal('create')


def test_a_flag_comes_before_the_environment_and_that_before_the_file(
  cloud, tmp_path
):
  file = tmp_path / 'settings.env'
  file.write_text(
    '# mine\n\nTPU_NAME=file\nTPU_ZONE=asia-east1-c\nTPU_TYPE=v4-8'
  )
  printed = cloud.ok(
    'create',
    '--dry_run',
    f'--settings={file}',
    '--project=flag-project',
    TPU_NAME='environment',
    TPU_ZONE='',
  )
  create = dry(printed)[1]
  assert create[5] == 'environment'
  assert '--zone=asia-east1-c' in create
  assert '--project=flag-project' in create
  assert '--accelerator-type=v4-8' in create


def test_a_settings_file_is_not_run(cloud, tmp_path):
  file = tmp_path / 'settings.env'
  file.write_text(f'TPU_RUN=$(touch {tmp_path}/run)\n')
  sentence = cloud.refusal('status', f'--settings={file}')
  assert "TPU_RUN is '$(touch" in sentence
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('line', 'said'),
  [
    ('TPU_ZONNE=us-east5-a', 'TPU_ZONNE, which is no setting'),
    ('zone us-east5-a', "'zone us-east5-a'; each line is TPU_<NAME>=<value>"),
    ('export TPU_ZONE=x', "'export TPU_ZONE=x'"),
  ],
)
def test_a_bad_line_of_a_settings_file_is_shown(line, said, cloud, tmp_path):
  file = tmp_path / 'settings.env'
  file.write_text(f'TPU_NAME=a\n{line}\n')
  sentence = cloud.refusal('status', f'--settings={file}')
  assert sentence.startswith(f'Error: Line 2 of {file}')
  assert said in sentence


@pytest.mark.parametrize(
  ('number', 'text'),
  [
    (1, 'TPU_NAME=score\r\nTPU_ZONE=us-east5-a\r\n'),
    (2, 'TPU_NAME=score\n# mine\r\n'),
    (2, 'TPU_NAME=score\n\r\n'),
    (2, 'TPU_NAME=score\nTPU_SLICES=1\r'),
  ],
)
def test_a_line_with_a_carriage_return_is_said(number, text, cloud, tmp_path):
  file = tmp_path / 'settings.env'
  file.write_bytes(text.encode())
  sentence = cloud.refusal('status', f'--settings={file}')
  line = text.split('\n')[number - 1].rstrip('\r')
  assert f"Line {number} of {file}, '{line}', ends with a carriage" in sentence
  assert "tr -d '\\r' <old >new" in sentence


@pytest.mark.parametrize(
  ('word', 'said'),
  [
    ('--zome=x', '--zome is no flag of status.sh'),
    ('--zone', '--zone has no value'),
    ('--dry_run=no', '--dry_run takes no value'),
    ('score', "'score' is no flag"),
    ('--settings=nowhere', "no settings file 'nowhere'"),
  ],
)
def test_a_bad_flag_is_said(word, said, cloud):
  assert said in cloud.refusal('status', word)


@pytest.mark.parametrize(
  ('kind', 'runtime'),
  [
    ('v4-8', 'tpu-ubuntu2204-base'),
    ('v5litepod-8', 'v2-alpha-tpuv5-lite'),
    ('v5p-128', 'v2-alpha-tpuv5'),
    ('v6e-256', 'v2-alpha-tpuv6e'),
  ],
)
def test_the_runtime_follows_from_the_type(kind, runtime, cloud):
  printed = cloud.ok('create', '--dry_run', f'--type={kind}')
  assert f'--runtime-version={runtime}' in dry(printed)[1]


def test_an_unknown_generation_needs_a_runtime(cloud):
  sentence = cloud.refusal('create', '--type=v9x-8')
  assert "none is known for 'v9x-8'" in sentence
  cloud.ok('create', '--type=v9x-8', '--runtime=some', '--dry_run')


@pytest.mark.parametrize('more', [(), ('--runtime=some',)])
@pytest.mark.parametrize('kind', ['v5e-16', 'v5e', 'v5e:4x4'])
def test_the_type_of_v5e_chips_is_told(kind, more, cloud):
  sentence = cloud.refusal('create', '--dry_run', f'--type={kind}', *more)
  assert f"TPU_TYPE is '{kind}', which must be v5litepod-<chips>" in sentence
  assert '--type=v5litepod-16' in sentence


def test_several_slices_need_a_generation_that_can(cloud):
  sentence = cloud.refusal('create', '--type=v3-8', '--slices=2')
  assert "TPU_TYPE is 'v3-8' and TPU_SLICES is 2" in sentence
