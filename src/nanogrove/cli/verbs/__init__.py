"""The verbs of the command line, one file each: a module and its function have the verb's name."""
