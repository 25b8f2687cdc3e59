"""Print the environment for bug reports: python -m mmatm.env"""

from .utils import collect_env


def main() -> None:
    print('\n'.join(f'{name}: {value}' for name, value in collect_env().items()))


if __name__ == '__main__':
    main()
