/* What layers ask of a pool, and what a pool is: our own threads, or those of a runtime that calls us. */
#ifndef MSQ_THREADS_H
#define MSQ_THREADS_H

#include "msq_kernels.h"

struct msq_threads {
    int32_t count;
    /* Do work(context, part, thread) for every part in 0..parts − 1, thread in 0..count − 1; return after all. */
    void (*share)(msq_threads *threads, int32_t parts, void (*work)(void *context, int32_t part, int32_t thread),
                  void *context);
};

/* Threads of a pool; 1 of none. */
int32_t msq_thread_count(const msq_threads *threads);

/* Share work among a pool's threads, or do it here where there is no pool or only one part. */
void msq_share(msq_threads *threads, int32_t parts, void (*work)(void *context, int32_t part, int32_t thread),
               void *context);

#endif
