"""What an operation costs, measured: cases, the timing loop, the log, and the processes that fill it."""
