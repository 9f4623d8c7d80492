"""Provide the source of a module `wandb` that records the calls of training."""

SOURCE = """
import json, os


def _note(**call):
    with open(os.environ['WANDB_STAND_IN'], 'a') as file:
        file.write(json.dumps(call) + '\\n')


def _calls():
    if not os.path.exists(os.environ['WANDB_STAND_IN']):
        return []
    with open(os.environ['WANDB_STAND_IN']) as file:
        return [json.loads(line) for line in file]


class _Run:
    def __init__(self, id):
        begun, self.step = None, 0
        for call in _calls():
            begun = call['id'] if call['call'] == 'init' else begun
            if call['call'] == 'log' and begun == id:
                self.step = call['step'] + 1  # a resumed run continues here

    def log(self, data, step):
        if os.environ.get('WANDB_STAND_IN_FAILS') == 'log':
            raise ConnectionError('the network is gone')
        self.step = step
        _note(call='log', step=step, data=data)

    def finish(self, exit_code):
        _note(call='finish', exit_code=exit_code)


def init(**arguments):
    if os.environ.get('WANDB_STAND_IN_FAILS') == 'init':
        raise RuntimeError('no api key')
    run = _Run(arguments['id'])
    _note(call='init', **arguments)
    return run
"""
