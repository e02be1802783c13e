"""`python -m benchmarks.child MODULE FUNCTION ARGUMENTS`: one call in a fresh process."""

import importlib
import json
import sys

if __name__ == "__main__":
    module, function, arguments = sys.argv[1:]
    called = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    print("\n" + json.dumps(called(*json.loads(arguments))), flush=True)
