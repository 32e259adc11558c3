"""Classes of other libraries, by their names and with their arguments, on this engine."""
