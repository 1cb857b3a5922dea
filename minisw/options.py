"""The options of the smaller commands: wrong usage is one line on standard error, like every other mistake of the user."""

from __future__ import annotations

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Raises ValueError with one line for wrong usage, where argparse prints the whole usage and exits."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")
