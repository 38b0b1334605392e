"""Run a management program several times: lab_manage.py MODULE:FUNCTION JSON

JSON is a list of argument lists, carried out in order. Importing such a program
takes most of its time, so it is imported once; each run is a fork, because none
of them can be run twice in one process.
"""
import importlib
import json
import os
import sys
import traceback

module_name, function = sys.argv[1].split(":")
module = importlib.import_module(module_name)
for arguments in json.loads(sys.argv[2]):
    print("== %s %s" % (module_name, " ".join(arguments)), flush=True)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            sys.argv = [module_name] + arguments
            code = getattr(module, function)() or 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        sys.exit("failed: " + " ".join(arguments))
