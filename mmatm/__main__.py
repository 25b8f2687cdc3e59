"""``python -m mmatm`` runs the command ``mmatm``."""

from .cli import main

if __name__ == '__main__':
    main()
