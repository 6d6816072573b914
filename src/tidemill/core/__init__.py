"""Pure policy: values in, values out; no I/O, no threads, no clock of its own."""
