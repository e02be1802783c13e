"""`python -m benchmarks`: run the benchmarks, write their results, print one table.

Exits with 1 if a mark was missed. A slow or busy machine changes figures more than ratios; both
sides of a ratio are measured in one run, in turns.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.corpus import VARIABLE, described
from benchmarks.measure import Result, in_new_process, passed

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if "\ndef run(" in path.read_text())
WIDTH = 120


def main() -> int:
    """Run the benchmarks that the command line names, or all; returns the exit code."""
    options = _options()
    if options.data is not None:
        os.environ[VARIABLE] = str(options.data)
    print(described(), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    failed = []
    for name in options.names or NAMES:
        print(f"{name} ...", flush=True)
        try:
            found = in_new_process(name, "run")
        except subprocess.CalledProcessError:
            failed.append(name)  # its own output has the reason
            continue
        found = found if isinstance(found, list) else [found]
        _write(options.out / f"{name}.json", found)
        results += found
    _print(results)
    for name in failed:
        print(f"{name}: not measured, see the error above")
    return int(bool(failed) or any(passed(result) is False for result in results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)} [all]")
    parser.add_argument("--out", type=Path, default=FOLDER / "results", help="folder for the JSON")
    parser.add_argument("--data", type=Path, help=f"folder of parquet files [${VARIABLE}]")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"unknown benchmark {', '.join(unknown)}; choose from {', '.join(NAMES)}")
    return options


def _write(path: Path, results: list[Result]) -> None:
    document = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "python": platform.python_version(),
        "corpus": described(),
        "results": results,
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _print(results: list[Result]) -> None:
    table = Table()
    for column in ("what", "ours", "peer or limit", "unit", "ratio", "mark", "pass"):
        table.add_column(column, justify="left" if column in ("what", "unit") else "right")
    for each in results:
        verdict = passed(each)
        sign = "<=" if each.get("better") == "lower" else ">="
        table.add_row(
            each["name"],
            _figure(each["ours"]),
            _figure(each["peer"]),
            each["unit"],
            f"{each['ratio']:.3g}",
            f"{sign} {each['mark']:g}" if "mark" in each else "",
            "" if verdict is None else "yes" if verdict else "NO",
        )
    console = Console()
    console = console if console.is_terminal else Console(width=WIDTH)
    console.print(table)
    for each in results:
        if "note" in each:
            console.print(f"{each['name']}: {each['note']}", highlight=False)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
