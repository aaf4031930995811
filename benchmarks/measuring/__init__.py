"""How contenders, bases and whole runs are measured."""
