/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a cache line costs on this machine: N lines in random order, one of four in its memory as the flows of the benchmark
 * lie in their table, each read, added to and followed to the next, at a datagram's pace: how long a line stays in a cache that
 * is shared with others depends on how soon it is visited again. The least that N sessions can cost a datagram and relay.
 *
 *     lines N...     prints "N nanoseconds" for each, without the pause
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define SPREAD 4
#define STEPS 1000000
#define PAUSE 330 /* multiplications, each waiting for the one before: about 300 ns at 3.5 GHz */

struct line {
	uint64_t next, counted[7];
};

static uint64_t dice = 88172645463325252ULL; /* xorshift64 (Marsaglia 2003) */

static uint64_t roll(uint64_t sides)
{
	dice ^= dice << 13;
	dice ^= dice >> 7;
	dice ^= dice << 17;
	return dice % sides;
}

static double nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e9 + now.tv_nsec;
}

/* Zero, some time later: nothing behind it can begin before. */
static uint64_t pause_on(uint64_t value)
{
	for (int i = 0; i < PAUSE; i++)
		__asm__ volatile("imul %0, %0" : "+r"(value)); /* (x86) an even number, squared often enough, is zero */
	return value;
}

static double measure(uint64_t count)
{
	size_t size = count * SPREAD * sizeof(struct line);
	struct line *lines = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t *order = malloc(count * sizeof(*order));
	double took;

	if (lines == MAP_FAILED || !order || madvise(lines, size, MADV_NOHUGEPAGE)) /* the kernel's table has small pages, too */
		exit(1);
	for (uint64_t i = 0; i < count; i++)
		order[i] = i * SPREAD + roll(SPREAD);
	for (uint64_t i = count - 1; i > 0; i--) {
		uint64_t other = roll(i + 1), kept = order[i];

		order[i] = order[other];
		order[other] = kept;
	}
	for (uint64_t i = 0; i < count; i++)
		lines[order[i]].next = order[(i + 1) % count];
	/* from a line of the ring, so that none is visited that is not on it */
	volatile struct line *first = lines + order[0];
	double start;

	for (uint64_t i = 0; i < count; i++)
		first = lines + first->next;
	start = nanoseconds();
	for (uint64_t i = 0; i < STEPS; i++) {
		first->counted[6]++;
		first = lines + first->next + pause_on(first->next * 2);
	}
	took = (nanoseconds() - start) / STEPS;
	munmap(lines, size);
	free(order);
	return took;
}

int main(int count, char **arguments)
{
	for (int i = 1; i < count; i++) {
		double pace = measure(2); /* two lines are always in the nearest cache */

		printf("%s %.1f\n", arguments[i], measure(strtoull(arguments[i], NULL, 10)) - pace);
	}
	return 0;
}
