"""Test how a process names itself, its host and its job."""

import dataclasses
import os

from elastic_ast_jax.distributed.identity import Identity


def test_a_process_without_a_launcher():
    identity = Identity.current({})
    assert identity.process == os.getpid() and identity.host and identity.owner
    assert (identity.job, identity.start) == ('', 0)
    assert not identity.has_ended(identity)
    assert not identity.is_restarted_by(dataclasses.replace(identity, start=1))
    assert identity.describe().startswith(f'process {os.getpid()} of {identity.owner} on ')


def test_a_job_of_slurm_is_queued_again():
    variables = {'SLURM_JOB_ID': '41', 'SLURM_CLUSTER_NAME': 'big'}
    first = Identity.current(variables)
    again = Identity.current(variables | {'SLURM_RESTART_COUNT': '1'})
    assert first.job == 'SLURM big 41' and first.describe().endswith(', job SLURM big 41')
    assert first.is_restarted_by(again) and not again.is_restarted_by(first)
    assert not first.is_restarted_by(Identity.current(variables))
    other = Identity.current({'SLURM_JOB_ID': '42', 'SLURM_RESTART_COUNT': '1'})
    assert not first.is_restarted_by(other)


def test_variables_of_a_launcher_come_first():
    identity = Identity.current(
        {
            'ELASTIC_AST_JOB': 'local 1',
            'ELASTIC_AST_START': '3',
            'ELASTIC_AST_HOST': 'node 7',
            'SLURM_JOB_ID': '41',
        }
    )
    assert (identity.job, identity.start, identity.host) == ('local 1', 3, 'node 7')
    assert not identity.has_ended(Identity.current({}))  # of another machine


def test_a_later_process_of_the_same_number_is_another_one():
    here = Identity.current({})
    assert dataclasses.replace(here, began='1').has_ended(here)
    assert not dataclasses.replace(here, began='1', machine='another').has_ended(here)


def test_what_another_version_wrote_is_read():
    assert Identity.from_json({'host': 5, 'process': 'x'}).describe() == (
        'process 0 of somebody on 5'
    )
    here = Identity.current({})
    assert Identity.from_json(dataclasses.asdict(here) | {'more': 1}) == here
