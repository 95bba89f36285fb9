"""The stages between the files of a run folder: plain arguments in, files out. Verbs and runs call the same ones."""
