"""Program tests: a packet in, verdict, packet out and counters back, by BPF_PROG_TEST_RUN on the loaded program."""
