"""Tables of finished runs, without running anything.

    python -m minisw.report runs/tiny-*            Markdown tables; several folders are runs with different seeds
    python -m minisw.report --write runs/tiny-0    make claims.json and report.html of each folder anew
    python -m minisw.report --update REPRODUCE.md  rewrite the marked tables of Markdown files (minisw/report/tables.py)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from minisw.options import Parser
from minisw.report.page import write_results
from minisw.report.tables import all_tables, update


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. A mistake of the user ends it with one line and exit status 2."""
    parser = Parser(
        prog="python -m minisw.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="run folders")
    parser.add_argument("--write", action="store_true", help="make claims.json and report.html of each folder anew")
    parser.add_argument("--update", nargs="+", type=Path, default=[], metavar="FILE", help="Markdown files to update")
    try:
        options = parser.parse_args(arguments)
        if not options.folders and not options.update:
            raise ValueError("name run folders, or --update and Markdown files; see python -m minisw.report --help")
        for folder in options.folders:
            if not folder.is_dir():
                raise ValueError(f"no such run folder: {folder}")
        for folder in options.folders if options.write else ():
            print(write_results(folder))
        if options.folders and not options.write:
            print("\n".join(all_tables(options.folders)), end="")
        for file in options.update:
            print(f"{file}: {'updated' if update(file) else 'unchanged'}")
    except (ValueError, OSError) as error:
        print(f"minisw: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
