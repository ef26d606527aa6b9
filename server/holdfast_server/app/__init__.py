"""The composition root: builds every concrete object, runs the processes, closes all in order."""
