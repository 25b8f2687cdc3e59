"""``python -m mmatm.env`` prints the environment; put it into a bug report."""

from .utils import collect_env


def main() -> None:
    print('\n'.join(f'{name}: {value}' for name, value in collect_env().items()))


if __name__ == '__main__':
    main()
