"""The verbs of the command line, one module a subject; cli.py imports a module when its verb is used."""
