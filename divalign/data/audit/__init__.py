"""What is wrong with a training set, in numbers and plain verdicts, before anyone trains on it."""
