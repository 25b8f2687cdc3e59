"""Supply the operators of an mmcv without compiled ones: mmatm operators {status,install,remove}

"import mmatm" does this for its own process. Programs that import mmcv's operators before mmatm,
such as mmdet's own tools, need a file in mmcv's folder: "install" writes it, "remove" deletes it.
"""

import argparse
import sys

from ..utils.operators import install, remove, status

_ACTIONS = {'status': status, 'install': install, 'remove': remove}


def main() -> None:
    first, _, rest = (__doc__ or '').partition('\n')
    parser = argparse.ArgumentParser(description=first.split(':')[0], epilog=rest)
    parser.add_argument('action', nargs='?', default='status', choices=list(_ACTIONS))
    action = _ACTIONS[parser.parse_args().action]
    try:
        print(action())
    except OSError as error:
        sys.exit(str(error))
