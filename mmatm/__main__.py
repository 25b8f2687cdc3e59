"""``python -m mmatm`` is the command ``mmatm``."""

from .cli import main

if __name__ == '__main__':
    main()
