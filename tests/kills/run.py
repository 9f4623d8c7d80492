"""Kill training at random moments; check that it resumes to the bits of an undisturbed run.

    python -m tests.kills.run --count=100 --seed=0 --disks=20

Run it in the root of the checkout. Each kill has a random moment (start-up, a step, a save, an
evaluation) and signal (SIGKILL, SIGTERM, SIGINT); half of the runs have two processes. All
processes of a run must end within a minute of the signal. Then the run resumes, is killed again,
and at last finishes: parameters, optimizer, metrics and kept checkpoints must be those of the
undisturbed run. `--disks` runs meet a full disk, and finish when there is room.
"""

import argparse
import collections
import json
import pathlib
import sys
import tempfile

from tests.kills.trials import Trials, draw_kills


def main() -> int:
    """Run the trials; return 1 if something went wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--count', type=int, default=100, help='kills (default: 100)')
    parser.add_argument('--disks', type=int, default=0, help='full disks (default: 0)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the draw (default: 0)')
    parser.add_argument('--processes', type=int, choices=(1, 2), help='only runs of 1 or of 2')
    parser.add_argument('--out', type=pathlib.Path, help='a folder for all runs')
    options = parser.parse_args()
    folder = options.out or pathlib.Path(tempfile.mkdtemp(prefix='kills'))
    folder.mkdir(parents=True, exist_ok=True)
    outcomes: list[dict] = []

    def report(outcome: dict) -> None:
        outcomes.append(outcome)
        print(json.dumps(outcome), flush=True)

    trials = Trials(folder, report)
    kills = [
        kill
        for kill in draw_kills(options.count, options.seed)
        if options.processes in (None, kill.processes)
    ]
    failures = trials.kill_all(kills) + trials.fill_disks(options.disks, options.seed)
    ended = [outcome for outcome in outcomes if 'signal' in outcome]
    print(f'{len(ended)} kills: {dict(collections.Counter(kill["moment"] for kill in ended))}')
    print(f'longest end: {max((kill["seconds"] for kill in ended), default=0)} s')
    print(f'{sum("same_bits" in outcome for outcome in outcomes)} runs with the same bits')
    print(f'{len(failures)} failures; all runs are in {folder}')
    print('\n'.join(failures))
    return int(bool(failures))


if __name__ == '__main__':
    sys.exit(main())
