"""torchrun that outlives the machine on which its rendezvous store runs.

torchrun restarts processes and waits for machines that were lost, but it ends when it loses the
store, which runs inside the torchrun of one of the machines. It then starts again here, at most
``MAX_RESTARTS`` times, and waits for that machine.
"""

import os
import sys

from torch.distributed.elastic.rendezvous.api import RendezvousConnectionError
from torch.distributed.run import main as torchrun


def main() -> None:
    """Run torchrun with the arguments of this process."""
    try:
        torchrun()
    except RendezvousConnectionError as error:
        endpoint = os.environ.get('RDZV_ENDPOINT')
        reason = f'the rendezvous at {endpoint} is lost or not found: {error.__cause__ or error}'
        left = int(os.environ.get('MAX_RESTARTS', '0'))
        if not left:
            sys.exit(reason)
        print(f'{reason}\nlooking for it again ({left} attempts left)', file=sys.stderr)
        os.environ['MAX_RESTARTS'] = str(left - 1)
        os.execv(sys.executable, sys.orig_argv)


if __name__ == '__main__':
    main()
