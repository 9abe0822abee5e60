"""`fastgpu-comm env`: prints what a bug report needs."""

from __future__ import annotations

import argparse
import json
from typing import Any

DESCRIPTION = """\
Prints what a bug report needs: versions, whether the backend is available or why not, processor,
network interfaces, transports, limits, and the FASTGPU_ settings. It prints no secrets, no host
name and no path, but addresses of this host."""


def add_parser(subparsers: Any) -> None:
    """Adds the command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "env",
        help="print what a bug report needs: versions, network, limits, settings",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON (default: text)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    from fastgpu_comm import diagnosis

    report = diagnosis.collect()
    if arguments.json:
        print(json.dumps(report, indent=1))
        return 0
    for title, section in report.items():
        print(title)
        for name, value in section.items():
            print(f"  {name:<28}{value}")
        if not section:
            print("  nothing is set")
    return 0
