"""Tables beside other readers, on this machine: `python -m benchmarks.suites`, `python -m benchmarks.gpu`."""
