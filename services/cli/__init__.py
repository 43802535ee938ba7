"""The command `rgopd`: one file a command, over everything else.

In: words on the command line, YAML files, `RGOPD_*` variables.
Out: started services, a run folder, a report, an exit code that says whether trying again can help.
Not imported: torch, transformers and the services where a command starts without them: they are imported inside it.
Nothing imports the command line.
"""
