"""Runs a script, its own arguments behind it, and leaves as soon as it is through.

The threads of torch's gloo backend can outlive what they worked on. Once in a long while a process that takes its group
down, or lets the interpreter do it, dies of SIGABRT ("terminate called without an active exception") when all its work
is done; torchrun then ends the other process, too (pytorch/pytorch pull request 179291 names one way it happens). What
these tests ask has been written by then, so nothing is taken down here: the system does it.
"""

import faulthandler
import os
import runpy
import sys

faulthandler.enable()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
sys.stdout.flush()
sys.stderr.flush()
os._exit(0)
