"""The daemon: arguments, assembly, signals."""
