"""The command line: arguments in, text and an exit code out.

`quick.py` answers what needs neither click nor a command; `main.py` runs the commands, which `verbs.py` lists, and
turns a TorchlocksError into a message and its exit code; `commands/` has the commands by subject, each of which calls
one function of a package below. `action.py` reads the inputs of the GitHub Action. Read `main.py` first, then
`commands/shared.py` for the options that several commands have.
"""
