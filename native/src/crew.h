/* A few threads for the length of one call. */
#ifndef I2_CREW_H
#define I2_CREW_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#define I2_CREW_MAX 64

/* Runs work(member) for n members of `size` bytes each, the first in the calling thread, and returns
 * when all are done. Members whose thread cannot be had do not run: work must be shared by an
 * atomic counter, so that fewer hands do the same. */
static inline void i2_crew(void *(*work)(void *), void *members, size_t size, int n)
{
    pthread_t thread[I2_CREW_MAX];
    int started = 0;
    while (started + 1 < n && started < I2_CREW_MAX) {
        uint8_t *member = (uint8_t *)members + size * (size_t)(started + 1);
        if (pthread_create(&thread[started], NULL, work, member)) break;
        started++;
    }
    work(members);
    for (int i = 0; i < started; i++) pthread_join(thread[i], NULL);
}

/* How many hands for `jobs` jobs when the caller allows `threads`. */
static inline int i2_hands(int threads, size_t jobs)
{
    if (threads > I2_CREW_MAX) threads = I2_CREW_MAX;
    if (threads < 1) threads = 1;
    return jobs < (size_t)threads ? (jobs ? (int)jobs : 1) : threads;
}

#endif
