#!/usr/bin/env python
"""Check everything on a GPU and measure its speed: python tools/gpu_check.py

Needs torch and timm alone; with mm packages it trains each head as well. Takes less than 8 minutes.
Writes one page of Markdown, and exits with status 1 if anything is wrong.
"""

import argparse
import re
import sys
from pathlib import Path

import torch

from mmatm.utils.files import write_atomically


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', type=Path, help='page to write (default: gpu_check_NAME.md)')
    parser.add_argument('--force', action='store_true', help='replace an existing page')
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit('gpu-check needs a GPU, but torch sees none on this machine')
    name = re.sub(r'\W+', '_', torch.cuda.get_device_name()).lower()
    out = args.out or Path(f'gpu_check_{name}.md')
    if out.exists() and not args.force:
        sys.exit(f'{out} exists; choose another --out, or replace it with --force')

    from mmatm.measuring.gpu_check import Check

    check = Check()
    page = check.run()
    write_atomically(out, page.encode())
    print(page, f'written to {out}', sep='\n')
    sys.exit(1 if check.faults else 0)


if __name__ == '__main__':
    main()
